"""One trial of a configuration: launched, loaded, measured, judged."""
