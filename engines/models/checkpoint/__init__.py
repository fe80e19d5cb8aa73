"""Statements of a model folder's files: its kind, special ids, generation defaults, weights; or why it is refused."""
