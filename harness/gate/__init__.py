"""The regression gate: two stored runs and a rules file in; pass, regressed or cannot tell out."""
