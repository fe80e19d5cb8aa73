"""The search (`tune`): which candidate to try next, until budget or space is used up (Optuna lives here)."""
