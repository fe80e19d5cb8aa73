"""Load from several hosts: the coordinator, its workers, and the messages between them."""
