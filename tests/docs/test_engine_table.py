"""The engine table of engines/README.md is what `dyno doctor --engines --markdown` prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.doctor import command
from harness.cli.engine_table import BEGIN, END

README = Path(__file__).parents[2] / "engines" / "README.md"


@pytest.mark.heavy
def test_the_readme_of_engines_holds_the_printed_table() -> None:
    written = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()
    printed = CliRunner().invoke(command, ["--engines", "--markdown"])
    assert printed.exit_code == 0, printed.output
    assert written == printed.output.strip(), (
        "run: dyno doctor --engines --markdown, and paste it into engines/README.md"
    )


def test_markdown_alone_is_refused() -> None:
    printed = CliRunner().invoke(command, ["--markdown"])
    assert printed.exit_code == 2
    assert "--engines --markdown" in printed.output
