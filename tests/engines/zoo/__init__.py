"""A zoo of T5 folders as published: every layout met in public, in tiny, and each engine's answers to it."""
