"""How fast the load generator itself can go on this machine."""
