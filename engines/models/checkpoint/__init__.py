"""The files of a model folder, read without loading it: its kind, special ids, generation defaults, weights, faults."""
