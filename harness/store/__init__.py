"""Run folders, the store of everything measured: files are the truth."""
