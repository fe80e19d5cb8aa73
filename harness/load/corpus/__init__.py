"""Texts of a wanted number of tokens, cut from a corpus of real text."""
