"""Sending requests and recording what came back (Locust lives here, in processes of its own)."""
