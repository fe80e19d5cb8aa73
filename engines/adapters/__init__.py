"""Adapters: one file per library that serves models, all behind the interfaces of engines/api.py."""
