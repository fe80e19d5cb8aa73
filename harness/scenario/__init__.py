"""Scenario files: YAML in, a resolved, frozen scenario out."""
