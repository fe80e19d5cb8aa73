"""The Java of this machine, and Multi Model Server with the handler that its workers run."""
