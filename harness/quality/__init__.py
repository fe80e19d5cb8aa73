"""Whether a candidate still answers like the fp32 reference."""
