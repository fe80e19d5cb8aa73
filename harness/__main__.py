"""`python -m harness` is `dyno`."""

from harness.cli.main import main

main()
