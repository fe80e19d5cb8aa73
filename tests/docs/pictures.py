"""The pictures of README: `python -m tests.docs.pictures [RUN]` draws the data flow and photographs the report of RUN.

The report's picture needs Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.report.content.result_table import report_table
from harness.report.page.run_page import write_html
from harness.store.reader import read_run

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "results" / "published" / "pictures"
STAGES = (
    ("scenario", "what to serve,", "what must hold"),
    ("search", "which candidate", "to try next"),
    ("trial", "real server, real", "load, fp32 check"),
    ("measure", "intervals, and", "what is in doubt"),
    ("choose", "the best, and why", "the others lost"),
    ("properties", "the file, started", "and measured again"),
)
"""Name of a stage and two lines about it, in the order of the data."""
BOX, GAP, HEIGHT = 140, 24, 84
SIZE = "1200,600"


def data_flow() -> str:
    """The stages as an SVG: boxes from left to right, and the way back from measuring to searching."""
    width = len(STAGES) * (BOX + GAP) - GAP + 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 130" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="130" fill="#fff"/>',
    ]
    for place, (name, *lines) in enumerate(STAGES):
        x = 1 + place * (BOX + GAP)
        parts.append(f'<rect x="{x}" y="1" width="{BOX}" height="{HEIGHT}" rx="8" fill="#eef4fb" stroke="#35608f"/>')
        parts.append(f'<text x="{x + 10}" y="26" font-weight="bold" fill="#123">{name}</text>')
        parts += [f'<text x="{x + 10}" y="{48 + 18 * row}" fill="#345">{line}</text>' for row, line in enumerate(lines)]
        if place:
            parts.append(_arrow(x - GAP + 2, x - 3, 43))
    search, measure = (1 + place * (BOX + GAP) + BOX // 2 for place in (1, 3))
    parts.append(
        f'<path d="M{measure} {HEIGHT + 1} v26 H{search} v-20" fill="none" stroke="#35608f"/>'
        f'<path d="M{search - 4} {HEIGHT + 12} l4 -8 l4 8 z" fill="#35608f"/>'
        f'<text x="{search + 12}" y="{HEIGHT + 42}" fill="#345">until the trials or the minutes are used up</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _arrow(start: int, end: int, y: int) -> str:
    head = f'<path d="M{end - 7} {y - 4} l8 4 l-8 4 z" fill="#35608f"/>'
    return f'<path d="M{start} {y} H{end - 6}" stroke="#35608f"/>{head}'


def photograph(page: Path, picture: Path) -> None:
    """The top of `page` as a PNG."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("expected Chromium, got none: apt-get install chromium")
    flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--virtual-time-budget=8000"]
    command = [browser, *flags, f"--window-size={SIZE}", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Draw the data flow, and the report of the run folder that the command line names."""
    (PICTURES / "data-flow.svg").write_text(data_flow(), encoding="utf-8")
    if not sys.argv[1:]:
        return
    run = read_run(Path(sys.argv[1]))  # the page shows the path as it is given
    with tempfile.TemporaryDirectory() as made:
        page = Path(made) / "report.html"
        write_html(run, report_table(run), page)
        photograph(page, PICTURES / "report.png")


if __name__ == "__main__":
    main()
