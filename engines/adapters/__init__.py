"""One engine each, behind the interface of engines/api.py."""
