"""The four tasks, the rule that splits their prompts, and the benchmark prompts drawn from the held-out side.

Run as a script it writes prompts/tasks.jsonl: `python scenarios/assets/train/tasks.py`.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import date_task
import label_task
import rewrite_task
import spell_task

TASKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "label": label_task.draw,
    "date": date_task.draw,
    "spell": spell_task.draw,
    "rewrite": rewrite_task.draw,
}
HELD_OUT_ONE_IN = 20
PROMPTS_SEED = 2026
PROMPTS_PER_TASK = 100
PROMPTS_FILE = Path(__file__).parent.parent / "prompts" / "tasks.jsonl"


def is_held_out(prompt: str) -> bool:
    """True for the one prompt in 20 that is never trained on: the first 8 bytes of its SHA-256 divide by 20."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def training_pairs(task: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Endless (prompt, reference) pairs of a task, none of them held out."""
    while True:
        pair = TASKS[task](rng)
        if not is_held_out(pair[0]):
            yield pair


def held_out_pairs(task: str, count: int, seed: int) -> list[tuple[str, str]]:
    """`count` different held-out (prompt, reference) pairs of a task; the same for the same seed."""
    rng = random.Random(f"{task}:{seed}")
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        prompt, reference = TASKS[task](rng)
        if is_held_out(prompt):
            pairs[prompt] = reference
    return list(pairs.items())


def benchmark_rows() -> Iterator[dict[str, str]]:
    """The rows of prompts/tasks.jsonl: the four tasks in turn, 100 of each."""
    drawn = {task: held_out_pairs(task, PROMPTS_PER_TASK, PROMPTS_SEED) for task in TASKS}
    for index in range(PROMPTS_PER_TASK):
        for task, pairs in drawn.items():
            prompt, reference = pairs[index]
            yield {"id": f"{task}-{index:03d}", "task": task, "prompt": prompt, "reference": reference}


def main() -> None:
    """Write the benchmark prompts and say where."""
    PROMPTS_FILE.parent.mkdir(parents=True, exist_ok=True)
    PROMPTS_FILE.write_text("".join(json.dumps(row) + "\n" for row in benchmark_rows()))
    print(PROMPTS_FILE)


if __name__ == "__main__":
    main()
