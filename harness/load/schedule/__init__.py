"""The schedule of a load: arrival times, traces, prompts and their lengths."""
