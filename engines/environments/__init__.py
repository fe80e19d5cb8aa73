"""Python environments for engines whose packages cannot be installed beside the tool's."""
