"""The meaning of an answer's bytes in any protocol: frames, token counts, arrival times, failures."""
