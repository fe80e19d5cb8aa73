"""The options that the trainings of the bundled models have in common."""

import argparse
from pathlib import Path


def options_of(
    description: str | None, out: Path, *, minutes: str, threads: int, state: str
) -> argparse.ArgumentParser:
    """A parser of them. `minutes` and `state` are the help of these two, `out` is its own folder."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=60.0, help=minutes)
    parser.add_argument("--look-minutes", type=float, default=2.0, help="minutes between two looks at held-out prompts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--state", type=Path, required=True, help=state)
    return parser
