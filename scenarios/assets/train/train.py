"""Trains the bundled model from nothing on the CPU: `python scenarios/assets/train/train.py --minutes 60`.

The tasks are mixed by their current error on a held-out draw, which also stops the run early. A run is seeded, step by
step, but its length is in minutes: the same seed gives the same model only for the same number of steps and decay.
"""

import argparse
import itertools
import math
import random
import time
from dataclasses import dataclass, field
from typing import Any

import evaluate
import shape
import tasks
import torch
from torch.nn.functional import cross_entropy
from train_options import options_of
from transformers import AutoTokenizer, T5ForConditionalGeneration
from vocabulary import MODEL_DIR

ROWS = 64  # of a step, rewrite rows counting double
PEAK_RATE, WARM_UP_STEPS, FINAL_RATE_FRAC = 1e-3, 100, 0.02
RATE_FACTORS = {"relative_attention_bias": 20.0, ".q.": 0.25}
"""Parts of a parameter's name -> its share of the rate. T5 does not scale q·k, so q must move less; and attention by
position needs biases of several units, which take thousands of AdamW steps at the common rate. With both, and the
biases' start in shape.py, 300 steps of a probe brought the dates' loss to 0.006 nats a token; without, to 0.8."""
WATCH_SEED, WATCH_ROWS = 7, 100  # the held-out draw watched while training; the final figures use another
ERROR_FLOOR = 0.02  # a solved task keeps this weight in the mix
STOP_ERROR = 0.0  # on every watched task, and only when the rate has decayed


@dataclass(slots=True)
class Progress:
    """What a resumed run needs besides weights and optimizer state."""

    step: int = 0
    minutes: float = 0.0
    error: dict[str, float] = field(default_factory=lambda: dict.fromkeys(tasks.TASKS, 1.0))


def rate(progress: Progress, total_minutes: float) -> float:
    """The learning rate: linear warm-up, then half a cosine over the minutes of the run."""
    done = min(progress.minutes / total_minutes, 1.0)
    decay = FINAL_RATE_FRAC + (1 - FINAL_RATE_FRAC) * 0.5 * (1 + math.cos(math.pi * done))
    return PEAK_RATE * min((progress.step + 1) / WARM_UP_STEPS, 1.0) * decay


def rate_groups(model: T5ForConditionalGeneration) -> list[dict[str, Any]]:
    """The optimizer's parameter groups, each with the `factor` its rate is multiplied by."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = next((value for part, value in RATE_FACTORS.items() if part in name), 1.0)
        groups.setdefault(factor, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def draw_rows(progress: Progress, seed: int) -> list[list[tuple[str, str]]]:
    """The pairs of one step in two parts of like length: the three short tasks, and rewrite."""
    weight = {task: max(error, ERROR_FLOOR) for task, error in progress.error.items()}
    share = {task: value / sum(weight.values()) for task, value in weight.items()}
    rng = random.Random(f"{seed}:{progress.step}")
    short: list[tuple[str, str]] = []
    for task in ("label", "date", "spell"):
        short += itertools.islice(tasks.training_pairs(task, rng), max(4, round(ROWS * share[task])))
    long = itertools.islice(tasks.training_pairs("rewrite", rng), max(4, round(ROWS / 2 * share["rewrite"])))
    return [short, list(long)]


def learn(model: T5ForConditionalGeneration, tokenizer: Any, parts: list[list[tuple[str, str]]]) -> float:
    """Leave the gradients of one step in the model; returns the mean loss of its parts, in nats a token.

    An answer weighs the square root of its length: by token the labels would drown in the dates, by row their early
    noise would drown the rest.
    """
    total = 0.0
    for pairs in parts:
        batch = tokenizer([prompt for prompt, _ in pairs], padding=True, return_tensors="pt")
        labels = tokenizer([reference for _, reference in pairs], padding=True, return_tensors="pt").input_ids
        logits = model(**batch, labels=labels).logits
        nats = cross_entropy(logits.transpose(1, 2), labels, ignore_index=0, reduction="none")
        root_length = (labels != 0).sum(dim=1).sqrt()
        loss = (nats.sum(dim=1) / root_length).sum() / root_length.sum() / len(parts)
        loss.backward()
        total += loss.item()
    return total


def watch(model: T5ForConditionalGeneration, tokenizer: Any, progress: Progress) -> None:
    """Refresh the error of each task on the watched draw."""
    model.eval()
    for task in tasks.TASKS:
        progress.error[task] = len(evaluate.misses(model, tokenizer, task, WATCH_ROWS, WATCH_SEED)) / WATCH_ROWS
    model.train()


def train(options: argparse.Namespace) -> None:
    """Train until the minutes are over or nothing is missed, saving model and state at every look."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model, progress = shape.fresh_model(len(tokenizer), options.seed).train(), Progress()
    optimizer = torch.optim.AdamW(rate_groups(model), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    if options.resume:
        state = torch.load(options.state, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters", flush=True)
    while progress.minutes < options.minutes:
        started_s, loss, first_step = time.monotonic(), 0.0, progress.step
        base_minutes = progress.minutes
        until = min(progress.minutes + options.look_minutes, options.minutes)
        while progress.minutes < until:
            for group in optimizer.param_groups:
                group["lr"] = group["factor"] * rate(progress, options.minutes)
            loss += learn(model, tokenizer, draw_rows(progress, options.seed))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.step += 1
            progress.minutes = base_minutes + (time.monotonic() - started_s) / 60
        watch(model, tokenizer, progress)
        shape.save_model(model, options.out)
        saved = {"step": progress.step, "minutes": progress.minutes, "error": progress.error}
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": saved}, options.state)
        steps = progress.step - first_step
        print(f"{progress.minutes:.1f} min, {steps} steps, loss {loss / steps:.4f}: {saved}", flush=True)
        if max(progress.error.values()) <= STOP_ERROR and progress.minutes > 0.8 * options.minutes:
            break


def main() -> None:
    """Parse the options and train."""
    parser = options_of(
        __doc__,
        MODEL_DIR,
        minutes="minutes of training, looks not counted",
        threads=2,
        state="what --resume needs, outside the repository",
    )
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
