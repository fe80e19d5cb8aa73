"""Entry point `python -m harness`, the same as the command `dyno`."""

from harness.cli.main import main

main()
