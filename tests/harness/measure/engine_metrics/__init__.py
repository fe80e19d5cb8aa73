"""Reading what servers publish, and naming limits from it."""
