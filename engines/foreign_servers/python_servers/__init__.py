"""Servers that are Python programs: those of vLLM, SGLang and transformers, with their arguments."""
