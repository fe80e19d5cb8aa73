"""The requests in engines/README.md get the answers printed below them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.engines.server.running import fake_server

README = Path(__file__).parents[2] / "engines" / "README.md"


@pytest.mark.heavy
def test_each_example_request_gets_the_answer_below_it(tmp_path: Path) -> None:
    blocks = re.findall(r"```json\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    requests = blocks[0::2]
    assert len(requests) == 4
    with fake_server(tmp_path) as (_, client):
        for request, answer in zip(requests, blocks[1::2], strict=True):
            got = client.post("/invocations", json=json.loads(request))
            if got.headers["content-type"] == "application/jsonlines":
                assert got.text.splitlines() == answer.splitlines()
            else:
                assert got.json() == json.loads(answer)


def test_every_file_it_lists_exists() -> None:
    table = README.read_text(encoding="utf-8").partition("## Who may")[0]
    rows = "".join(line for line in table.splitlines() if line.startswith("| `"))
    names = re.findall(r"`([a-z0-9_]+(?:\.py|/))`", rows)
    assert names
    inner = {f"{path.parent.name}/" for path in README.parent.glob("*/*/__init__.py")}
    assert not [name for name in names if name not in inner and not (README.parent / name).exists()]
