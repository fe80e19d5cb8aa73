"""Choosing a candidate from a stored run and saying why. Runs nothing."""
