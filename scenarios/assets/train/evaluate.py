"""Held-out exact match of the bundled model for each task, with Wilson 95 % intervals.

`python scenarios/assets/train/evaluate.py [--per-task 1000] [--int8]`; --int8 rounds every matrix but the embedding to
int8 with one symmetric scale per output channel, weights only, and evaluates that.
"""

import argparse
import math
import random
from pathlib import Path
from typing import Any

import shape
import tasks
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration
from vocabulary import MODEL_DIR

BATCH_ROWS = 100
FINAL_SEED = 99  # training watches another draw, see train.py


def answers(model: T5ForConditionalGeneration, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Greedy answers, in the order of the prompts; batches are of like length to save padding."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        batch = tokenizer([prompts[index] for index in rows], padding=True, return_tensors="pt")
        with torch.inference_mode():
            produced = model.generate(**batch, do_sample=False, num_beams=1, max_new_tokens=shape.MAX_NEW_TOKENS)
        for index, text in zip(rows, tokenizer.batch_decode(produced, skip_special_tokens=True), strict=True):
            texts[index] = text
    return texts


def misses(
    model: T5ForConditionalGeneration, tokenizer: Any, task: str, count: int, seed: int
) -> list[tuple[str, str, str]]:
    """(prompt, reference, answer) of every held-out prompt of the draw that was not answered exactly."""
    pairs = tasks.held_out_pairs(task, count, seed)
    given = answers(model, tokenizer, [prompt for prompt, _ in pairs])
    return [(*pair, answer) for pair, answer in zip(pairs, given, strict=True) if answer != pair[1]]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The Wilson score interval at 95 % of a proportion."""
    z = 1.959964
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / count / 4) / (1 + spread)
    return middle - half, middle + half


def round_to_int8(model: T5ForConditionalGeneration) -> None:
    """Replace every Linear weight [out, in] by the nearest int8 multiple of its row's largest magnitude / 127."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data
            scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
            module.weight.data = (weight / scale).round().clamp(-127, 127) * scale


def main() -> None:
    """Print one line a task: exact match, n, interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--per-task", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=FINAL_SEED)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="misses to print for each task")
    options = parser.parse_args()
    model, tokenizer = shape.load_model(options.model), AutoTokenizer.from_pretrained(options.model)
    if options.int8:
        round_to_int8(model)
    for task in tasks.TASKS:
        missed = misses(model, tokenizer, task, options.per_task, options.seed)
        low, high = wilson(options.per_task - len(missed), options.per_task)
        share = 1 - len(missed) / options.per_task
        print(f"{task:8} exact match {share:.4f}  n {options.per_task}  95 % interval {low:.4f} to {high:.4f}")
        for miss in random.Random(0).sample(missed, min(options.show, len(missed))):
            print("   ", "\n     ".join(miss))


if __name__ == "__main__":
    main()
