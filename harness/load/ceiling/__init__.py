"""The ceiling of the load generator: its highest request rate on this machine."""
