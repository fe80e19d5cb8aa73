"""The candidates of a scenario: which can be launched on this machine, and what was ruled out."""
