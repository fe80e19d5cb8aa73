"""The choice of the best measured configuration of a run, and the reasons against the others."""
