"""Checks of a serving.properties file against one container version."""
