"""Recorded landscapes: every candidate of a space launched twice on one machine, with all its requests."""
