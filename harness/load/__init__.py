"""The load generator: sends requests and records the answers (Locust lives here, in child processes)."""
