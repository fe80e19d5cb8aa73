"""The feature table of the engines, printed by `dyno doctor --engines`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from engines.api import FEATURES
from engines.launching import load_engine
from engines.registry import engine_names, traits
from harness.cli.terminal import table_console

BEGIN, END = "<!-- dyno doctor --engines --markdown -->", "<!-- end of the engine table -->"
"""README keeps the table between these lines."""


def feature_rows() -> list[dict[str, Any]]:
    """One entry per engine that runs models: its features, and whether it can run here (and why not)."""

    rows: list[dict[str, Any]] = []
    for name in engine_names():
        engine = load_engine(name)
        features: Mapping[str, str] = features_of(engine)
        if features:
            availability = engine.probe()
            rows.append(
                {
                    "engine": name,
                    "is_available": availability.is_available,
                    "reason": availability.reason,
                    "features": dict(features),
                }
            )
    return sorted(rows, key=lambda row: not traits(row["engine"]).is_ours)  # our own first, the others as registered


def features_of(engine: Any) -> Mapping[str, str]:
    """Answers to api.FEATURES; empty for an engine that runs no model itself (fake, attach, model servers)."""
    features: Mapping[str, str] = getattr(engine, "features", {})
    return features


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Features as rows, engines as columns; the same on every machine."""

    names = [row["engine"] for row in rows]
    lines = ["| | " + " | ".join(f"`{name}`" for name in names) + " |", "| --- |" + " --- |" * len(names)]
    for key, heading in FEATURES.items():
        lines.append(f"| {heading} | " + " | ".join(row["features"][key] for row in rows) + " |")
    return "\n".join(lines)


def print_features(rows: Sequence[Mapping[str, Any]]) -> None:
    """Engines as rows, on a terminal."""

    table = Table(title="What each engine can do", title_justify="left")
    for heading in ("Engine", "Here", *FEATURES.values()):
        table.add_column(heading, overflow="fold")
    for row in rows:
        here = "[green]yes[/green]" if row["is_available"] else "[red]no[/red]"
        table.add_row(row["engine"], here, *(escape(row["features"][key]) for key in FEATURES))
    table_console().print(table)
    for row in rows:
        if not row["is_available"]:
            click.echo(f"{row['engine']}: {row['reason']}")
    click.echo("Next: dyno engine list")
