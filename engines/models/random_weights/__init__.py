"""Model folders with random weights in published shapes: their config.json, tensors and tokenizers."""
