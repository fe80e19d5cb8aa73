"""The machine under measurement: CPU, memory, GPUs, energy, and what disturbs it."""
