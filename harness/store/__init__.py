"""Run folders: files are the truth."""
