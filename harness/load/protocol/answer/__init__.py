"""The reading of answers in any protocol: frames, token counts, arrival times, failures."""
