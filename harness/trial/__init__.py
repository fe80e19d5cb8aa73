"""Running one trial end to end; the only room that launches engines."""
