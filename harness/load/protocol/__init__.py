"""Request bodies and answers of the protocols that a server may speak."""
