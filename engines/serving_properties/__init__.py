"""Reading and writing serving.properties files."""
