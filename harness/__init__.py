"""The tool: scenarios in, measured recommendations out. See harness/README.md."""
