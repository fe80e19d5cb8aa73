"""The help page HELP.md with every verb's --help: `python -m harness.cli.help_page > harness/cli/HELP.md`."""

from __future__ import annotations

import click

from harness.cli.main import VERBS, dyno

WIDTH = 100


def help_page() -> str:
    """The whole page, Markdown."""
    parts = ["# dyno, every verb", "", "Written by `python -m harness.cli.help_page`; do not edit.", ""]
    root = click.Context(dyno, info_name="dyno", terminal_width=WIDTH, max_content_width=WIDTH)
    parts += _section("dyno", dyno.get_help(root))
    for verb in VERBS:
        command = dyno.get_command(root, verb)
        if command is not None:
            parts += _command_sections(command, f"dyno {verb}", root)
    return "\n".join(parts)


def _command_sections(command: click.Command, name: str, parent: click.Context) -> list[str]:
    ctx = click.Context(command, info_name=name.rsplit(" ", 1)[-1], parent=parent, terminal_width=WIDTH)
    sections = _section(name, command.get_help(ctx))
    if isinstance(command, click.Group):
        for child in command.list_commands(ctx):
            found = command.get_command(ctx, child)
            if found is not None:
                sections += _command_sections(found, f"{name} {child}", ctx)
    return sections


def _section(name: str, text: str) -> list[str]:
    return [f"## {name}", "", "```text", text.rstrip(), "```", ""]


if __name__ == "__main__":
    click.echo(help_page().rstrip("\n"))
