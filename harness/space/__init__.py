"""The search space of a scenario: candidates that can be launched on this machine, and those ruled out."""
