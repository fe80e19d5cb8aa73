"""Our DJL-compatible model server: HTTP, a queue, batches and worker processes. See engines/README.md."""
