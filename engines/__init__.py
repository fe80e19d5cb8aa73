"""Things that serve a model. Usable without harness/; see engines/README.md."""
