"""What is sent when: arrival times, traces, prompts and their lengths."""
