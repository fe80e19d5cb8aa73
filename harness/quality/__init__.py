"""Quality of a candidate's answers against the fp32 reference."""
