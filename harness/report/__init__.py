"""Stored runs as tables and pages. Runs nothing."""
