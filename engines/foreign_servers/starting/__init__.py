"""The start of other people's servers: where the program is, its arguments, its script, the wait, the process."""
