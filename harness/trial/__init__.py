"""One configuration tried: launched, loaded, measured, judged."""
