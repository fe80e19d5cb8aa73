"""Generation loops that the Python engines share."""
