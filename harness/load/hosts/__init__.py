"""One load from several hosts: the coordinator, its workers, and what they send each other."""
