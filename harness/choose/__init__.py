"""Which measured configuration is best, and why the others are not."""
