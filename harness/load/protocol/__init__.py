"""Request protocols: the bodies and answers of the kinds of server that can be loaded."""
