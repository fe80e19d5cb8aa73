"""Reader of what `llama-bench -o json` and `-o jsonl` write: no requests, a mean rate for each test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.imported.nodes import Node
from harness.imported.result import Result
from harness.reported import Reported

TOOL = "llama-bench"
UNSTATED = "unknown"
"""Its commit where it was built from an archive."""
_NO_REQUESTS = (
    "llama-bench sends no requests: it calls the model in one process, one batch after the other, so there is no "
    "latency, no server and no load"
)


def recognizes(root: Node) -> bool:
    """Whether this is such a result, or one line of it."""
    first = root.items()[0] if isinstance(root.value, list) and root.value else root
    return first.has("build_commit", "n_prompt", "n_gen", "avg_ts")


def results(documents: Sequence[Node], path: Path) -> list[Result]:
    """One result for each model and build; its tests are rows of it."""
    tests = [test for root in documents for test in (root.items() if isinstance(root.value, list) else [root])]
    groups: dict[tuple[str, str], list[Node]] = {}
    for test in tests:
        if not recognizes(test):
            raise test.refused("a test of llama-bench, with build_commit, n_prompt, n_gen and avg_ts,")
        commit = test.at("build_commit").text()
        build = "" if commit == UNSTATED else f"build {test.at('build_number').whole()} ({commit})"
        groups.setdefault((Path(test.at("model_filename").text()).name, build), []).append(test)
    return [
        Result(
            tool=TOOL,
            version=build,
            files=(path,),
            model=model,
            load=None,
            is_streamed=False,
            reported=tuple(number for test in of_it for number in _numbers(test)),
            unavailable={"every metric": _NO_REQUESTS},
            started_utc=of_it[0].at("test_time").text() if of_it[0].maybe("test_time") else "",
        )
        for (model, build), of_it in groups.items()
    ]


def _numbers(test: Node) -> list[Reported]:
    prompt, answer = test.at("n_prompt").whole(), test.at("n_gen").whole()
    name = "+".join([*([f"pp{prompt}"] if prompt else []), *([f"tg{answer}"] if answer else [])])
    for part, mark in (("n_threads", "threads"), ("n_batch", "batch"), ("n_depth", "depth")):
        node = test.maybe(part)
        if node is not None and node.whole():
            name += f", {mark} {node.whole()}"
    numbers = [Reported(name=f"{name}: avg_ts", value=test.at("avg_ts").number(), unit="tokens/s")]
    if test.maybe("stddev_ts") is not None:
        numbers.append(Reported(name=f"{name}: stddev_ts", value=test.at("stddev_ts").number(), unit="tokens/s"))
    return numbers
