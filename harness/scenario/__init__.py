"""What to measure: YAML in, a resolved, frozen scenario out."""
