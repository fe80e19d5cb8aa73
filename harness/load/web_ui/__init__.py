"""Locust's web page beside a running load, read-only."""
