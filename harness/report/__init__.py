"""Reports of stored runs, as tables and pages."""
