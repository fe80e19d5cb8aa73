"""How often the log-probability verdict is right: on a toy model here, and on real engines when run as a program.

`python -m tests.harness.quality.logprob_power FOLDER` makes 20 tiny random decoders, lets engines answer 64 prompts in
fp32, plants a loss of twice the margin by noise on the weights, and prints both error rates.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.quality.logprob import LogprobDrops, drop_metric, drop_verdict

MARGIN = 0.05
PROMPTS = 64
TOKENS = 24
WORDS = 500


def verdict_of(nats: Sequence[float]) -> str:
    """The verdict on one run's losses, a number a prompt."""
    drops = LogprobDrops(nats={str(n): each for n, each in enumerate(nats)}, under="toy fp32")
    return drop_verdict(drops, MARGIN)[0]


class Toy:
    """A language model whose next token depends on the last one alone."""

    def __init__(self, seed: int) -> None:
        self.logits = 2.0 * np.random.default_rng(seed).standard_normal((WORDS, WORDS))

    def losses(self, noise: float, prompts: int, seed: int) -> list[float]:
        """What greedy answers lose under this model when `noise` is added to its logits."""
        rng = np.random.default_rng(seed)
        noisy = self.logits + noise * rng.standard_normal(self.logits.shape)
        most, choice = self.logits.max(axis=1), noisy.argmax(axis=1)
        last = rng.integers(WORDS, size=prompts)
        lost = np.zeros(prompts)
        for _ in range(TOKENS):
            lost += (most[last] - self.logits[last, choice[last]]) / TOKENS
            last = choice[last]
        return [float(each) for each in lost]

    def noise_that_loses(self, nats: float) -> float:
        """The noise at which answers lose `nats` a token on average, by bisection."""
        low, high = 0.0, 4.0
        for _ in range(12):
            middle = (low + high) / 2
            lost = float(np.mean([np.mean(self.losses(middle, 200, seed)) for seed in range(5)]))
            low, high = (low, middle) if lost > nats else (middle, high)
        return (low + high) / 2


PLANTED = 2 * MARGIN


def main(root: Path) -> None:
    """Both error rates on real engines."""
    for engine in ("transformers", "ctranslate2"):
        verdicts = [_run(root, seed, engine, 0.0) for seed in range(20)]
        print(f"{engine} fp32: {sum(each != 'Normal' for each, _ in verdicts)} of 20 not Normal;",
              f"largest loss {max(lost for _, lost in verdicts):.2g} nats", flush=True)  # fmt: skip
    noise = _planted_noise(root)
    verdicts = [_run(root, seed, "transformers", noise) for seed in range(20)]
    lost = [each for _, each in verdicts]
    print(f"planted: weight noise {noise:.4f}, mean loss {np.mean(lost):.4f} ({min(lost):.4f} to {max(lost):.4f}),",
          f"{sum(each in ('Degraded', 'Broken') for each, _ in verdicts)} of 20 rejected")  # fmt: skip


def _planted_noise(root: Path) -> float:
    """Noise on the weights, relative to their spread, that loses PLANTED on average over five models."""
    low, high = 0.0, 0.2
    for _ in range(6):
        middle = (low + high) / 2
        lost = float(np.mean([_run(root, seed, "transformers", middle)[1] for seed in range(100, 105)]))
        low, high = (low, middle) if lost > PLANTED else (middle, high)
    return (low + high) / 2


def _run(root: Path, seed: int, engine: str, noise: float) -> tuple[str, float]:
    """(verdict, mean loss) of one engine on the model of `seed`, its weights disturbed by `noise`."""
    folder = _model(root / f"m{seed}", seed)
    served = folder if noise == 0 else _disturbed(folder, root / f"m{seed}-n{noise:.6f}", noise, seed)
    rng = np.random.default_rng(seed)
    prompts = [[1, *map(int, rng.integers(10, 500, size=rng.integers(4, 12)))] for _ in range(PROMPTS)]
    ours = _answers(engine, served, prompts, 8)
    theirs = _answers("transformers", folder, prompts, 1)
    differing = [n for n in range(PROMPTS) if ours[n] != theirs[n]]
    rows = [(prompts[n], each[n]) for n in differing for each in (ours, theirs)]
    scores = _scores(root, folder, rows)
    nats = [0.0] * PROMPTS
    for place, n in enumerate(differing):
        nats[n] = scores[2 * place] - scores[2 * place + 1]
    drops = LogprobDrops(nats={str(n): each for n, each in enumerate(nats)}, under="transformers fp32")
    return drop_verdict(drops, MARGIN)[0], drop_metric(drops).value


def _scores(root: Path, folder: Path, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    from engines.generation.answer_scores import answer_scores

    asked, written = root / "asked.json", root / "written.json"
    asked.write_text(json.dumps({"min_new_tokens": TOKENS, "rows": rows}))
    answer_scores(str(folder), "fp32", str(asked), str(written))
    found: list[float] = json.loads(written.read_text())
    return found


def _answers(engine: str, folder: Path, prompts: Sequence[list[int]], batch: int) -> list[list[int]]:
    from engines.api import EngineSpec, GenerateParams, GenerateRequest
    from engines.launching import load_backend

    backend = load_backend(engine)
    backend.load(EngineSpec(engine=engine, model_dir=folder, batch_size=batch, threads=1))
    params = GenerateParams(max_new_tokens=TOKENS, min_new_tokens=TOKENS)
    answers: list[list[int]] = [[] for _ in prompts]
    for begin in range(0, len(prompts), batch):
        requests = [GenerateRequest(input_ids=tuple(ids), params=params) for ids in prompts[begin : begin + batch]]
        for events in backend.generate(requests):
            for event in events:
                if event.token_id is not None:
                    answers[begin + event.index].append(event.token_id)
    backend.close()
    return answers


def _model(folder: Path, seed: int) -> Path:
    from engines.models.cache import build_once
    from engines.models.random_weights.decoder_shapes import DECODER_SHAPES
    from engines.models.random_weights.folders import write_random_model

    shape = DECODER_SHAPES["smollm2-135m"]
    small: Mapping[str, Any] = {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    tiny = replace(shape, fields={**shape.fields, **small})
    return build_once(folder, lambda temporary: write_random_model(temporary, tiny, seed))


def _disturbed(folder: Path, target: Path, noise: float, seed: int) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    if not target.exists():
        shutil.copytree(folder, target)
        generator = torch.Generator().manual_seed(seed)
        values = load_file(folder / "model.safetensors")
        for name, value in values.items():
            spread = value.float().std()
            shaken = value.float() + noise * spread * torch.randn(value.shape, generator=generator)
            values[name] = shaken.to(value.dtype)
        save_file(values, target / "model.safetensors", {"format": "pt"})
    return target


if __name__ == "__main__":
    main(Path(sys.argv[1]))
