"""Held-out exact match of a bundled model for each task, with Wilson 95 % intervals.

`python scenarios/assets/train/evaluate.py [--model FOLDER] [--per-task 1000] [--int8]`; --int8
rounds every matrix but the embedding to int8 with one symmetric scale per output channel, weights only, and evaluates
that. A decoder is asked as its chat template asks: the prompt, then a newline. --record keeps the misses beside the
weights, with their digest, so that a model card can be held to them.
"""

import argparse
import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import decoder_shape
import shape
import tasks
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from vocabulary import MODEL_DIR

BATCH_ROWS = 100
FINAL_SEED = 99  # training watches another draw, see train.py


def load_model(folder: Path) -> PreTrainedModel:
    """The bundled T5 or decoder of a folder, in evaluation mode."""
    is_decoder = AutoConfig.from_pretrained(folder, local_files_only=True).model_type == "llama"
    return decoder_shape.load_model(folder) if is_decoder else shape.load_model(folder)


def answers(model: PreTrainedModel, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Greedy answers, in the order of the prompts; batches are of like length to save padding."""
    is_decoder = not model.config.is_encoder_decoder
    end = "\n" if is_decoder else ""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        batch = tokenizer([prompts[index] + end for index in rows], padding=True, return_tensors="pt")
        with torch.inference_mode():
            produced = model.generate(**batch, do_sample=False, num_beams=1, max_new_tokens=shape.MAX_NEW_TOKENS)
        if is_decoder:
            produced = produced[:, batch.input_ids.shape[1] :]
        for index, text in zip(rows, tokenizer.batch_decode(produced, skip_special_tokens=True), strict=True):
            texts[index] = text
    return texts


def misses(model: PreTrainedModel, tokenizer: Any, task: str, count: int, seed: int) -> list[tuple[str, str, str]]:
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


def round_to_int8(model: PreTrainedModel) -> None:
    """Replace every Linear weight [out, in] by the nearest int8 multiple of its row's largest magnitude / 127."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data
            scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
            module.weight.data = (weight / scale).round().clamp(-127, 127) * scale


def record(folder: Path, weights: str, seed: int, per_task: int, missed: dict[str, int]) -> None:
    """Write or renew evaluation.json in the model's folder: misses a task for `weights` (fp32 or int8)."""
    path = folder / "evaluation.json"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("model_sha256") != digest:
        kept = {"model_sha256": digest, "misses": {}}
    kept["misses"][weights] = {"seed": seed, "per_task": per_task, **missed}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def main() -> None:
    """Print one line a task: exact match, n, interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--per-task", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=FINAL_SEED)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="misses to print for each task")
    parser.add_argument("--record", action="store_true", help="keep the misses in the folder's evaluation.json")
    options = parser.parse_args()
    model, tokenizer = load_model(options.model), AutoTokenizer.from_pretrained(options.model)
    if options.int8:
        round_to_int8(model)
    counts: dict[str, int] = {}
    for task in tasks.TASKS:
        missed = misses(model, tokenizer, task, options.per_task, options.seed)
        low, high = wilson(options.per_task - len(missed), options.per_task)
        counts[task] = len(missed)
        share = 1 - len(missed) / options.per_task
        print(f"{task:8} exact match {share:.4f}  n {options.per_task}  95 % interval {low:.4f} to {high:.4f}")
        for miss in random.Random(0).sample(missed, min(options.show, len(missed))):
            print("   ", "\n     ".join(miss))
    if options.record:
        record(options.model, "int8" if options.int8 else "fp32", options.seed, options.per_task, counts)


if __name__ == "__main__":
    main()
