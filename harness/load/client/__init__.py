"""Clients of the load processes. They live under gevent and are imported there only."""
