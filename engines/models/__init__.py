"""Model folders: found or downloaded, checked, tokenized, converted, cached; random ones in published shapes; GGUF."""
