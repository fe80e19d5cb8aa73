"""Which candidate next: the space, the sampler, the loop (Optuna lives here)."""
