"""The schedule of a load: when each request leaves, recorded traces, the search for the largest rate."""
