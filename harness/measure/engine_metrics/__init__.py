"""The numbers that a server publishes about itself under load, and the limits that they name."""
