"""Our DJL-compatible model server: serving.properties in, HTTP out. See engines/README.md."""
