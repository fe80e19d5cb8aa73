"""Machines elsewhere that run the trials of a search, one each, and how their results come back."""
