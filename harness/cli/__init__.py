"""The command line `dyno`: one file per verb."""
