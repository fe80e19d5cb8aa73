"""Results of other tools, read into run folders: per-request records measured anew, their own numbers beside."""
