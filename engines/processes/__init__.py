"""Child processes of an engine: starting, supervising and ending them."""
