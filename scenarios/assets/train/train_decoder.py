"""Trains the bundled decoder from nothing on the CPU.

`python scenarios/assets/train/train_decoder.py --state /tmp/decoder.pt`, and the same line again after any stop.
Rows are `<s> prompt newline answer </s>`; the loss is on newline and answer, so that the model, asked without the
newline, writes it. What made it quick, against the T5's recipe:

- Muon for the layers' matrices, AdamW for the rest;
- bf16 products; attention stays fp32, whose CPU kernel is eight times faster backwards;
- a micro-batch a task, so that little is padded, and the logits of answers only;
- stages: a task starts with its shortest prompts, rewrite with one sentence, and goes on when its rows come out right;
- hints: the last word of a clause (label) is asked for the clause's own label.

A run is seeded, step by step, but its length is in processor minutes.
"""

import argparse
import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import decoder_shape
import decoder_vocabulary
import label_task
import rewrite_task
import tasks
import torch
from decoder_shape import SHAPE
from decoder_vocabulary import DECODER_DIR, END, PAD
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from train_options import options_of
from transformers import LlamaForCausalLM

Pair = tuple[str, str]
ROW_TOKENS = {"label": 22, "date": 26, "spell": 21, "rewrite": 120}  # about, prompt and answer
STEP_TOKENS = 2400
MUON_RATE, EMBEDDING_RATE, OTHER_RATE = 0.008, 0.003, 0.0015
WARM_UP_STEPS, DECAY_FROM = 40, 0.2  # the rate falls to nought over the last four fifths of the minutes
STAGES = 4  # the last one is the task as it is; before it the shortest of 8, 4, 2 draws
STAGE_ERROR = 0.3  # below it the next stage begins
ERROR_FLOOR = 0.01  # a solved task keeps this weight in the mix
ERROR_MEMORY = 0.9
WATCH_SEED, WATCH_ROWS = 7, 100  # the held-out draw watched while training; the final figures use another


@dataclass(slots=True)
class Progress:
    """What a resumed run needs besides weights and optimizer state."""

    step: int = 0
    minutes: float = 0.0
    stage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(tasks.TASKS, 1))
    error: dict[str, float] = field(default_factory=lambda: dict.fromkeys(tasks.TASKS, 1.0))

    def note(self, task: str, error: float) -> None:
        """Average the error of a step's rows in, and go on to the next stage when it is low."""
        self.error[task] = ERROR_MEMORY * self.error[task] + (1 - ERROR_MEMORY) * error
        if self.error[task] < STAGE_ERROR and self.stage[task] < STAGES:
            self.stage[task] += 1
            self.error[task] = 0.6


def rate(progress: Progress, total_minutes: float) -> float:
    """The share of the peak rates: linear warm-up, constant, linear to nought."""
    left = 1 - min(progress.minutes / total_minutes, 1.0)
    return min((progress.step + 1) / WARM_UP_STEPS, 1.0, max(left / (1 - DECAY_FROM), 0.01))


def staged_pairs(task: str, stage: int, rng: random.Random) -> Iterator[Pair]:
    """Endless pairs of a task at a stage, none held out; the last stage mixes in one short pair in twenty."""
    plain = tasks.training_pairs(task, rng)
    while True:
        level = rng.randint(1, STAGES - 1) if stage == STAGES and rng.random() < 0.05 else stage
        if level == STAGES:
            yield next(plain)
        elif task == "rewrite":
            pair = rewrite_task.draw(rng, sentences=level)
            if not tasks.is_held_out(pair[0]):
                yield pair
        else:
            yield min(itertools.islice(plain, 2 ** (STAGES - level)), key=lambda pair: len(pair[0]))


def step_pairs(progress: Progress, seed: int) -> dict[str, list[Pair]]:
    """The pairs of one step: each task's share of the tokens follows its error."""
    weight = {task: max(error, ERROR_FLOOR) for task, error in progress.error.items()}
    weight = {task: value * (2 if task in ("label", "rewrite") else 1) for task, value in weight.items()}
    rng = random.Random(f"{seed}:{progress.step}")
    drawn = {}
    for task, stage in progress.stage.items():
        tokens = ROW_TOKENS[task] if task != "rewrite" else 35 * stage
        rows = max(4, round(STEP_TOKENS * weight[task] / sum(weight.values()) / tokens))
        drawn[task] = list(itertools.islice(staged_pairs(task, stage, rng), rows))
    return drawn


def batch_of(tokenizer: Tokenizer, pairs: list[Pair], hinted: bool = False) -> tuple[Tensor, Tensor]:
    """Ids [B,T] padded on the right, and the ids to be predicted at each place [B,T]: PAD where nothing is asked.

    Hinted (label only), the last word of each clause is asked for that clause's own label.
    """
    prompts = tokenizer.encode_batch([f"{prompt}\n" for prompt, _ in pairs])
    answers = tokenizer.encode_batch([answer for _, answer in pairs], add_special_tokens=False)
    rows = [(prompt.ids, [*answer.ids, END]) for prompt, answer in zip(prompts, answers, strict=True)]
    length = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    ids, wanted = torch.full((len(rows), length), PAD), torch.full((len(rows), length), PAD)
    for row, (prompt, answer) in enumerate(rows):
        whole = torch.tensor(prompt + answer)
        ids[row, : len(whole) - 1] = whole[:-1]
        wanted[row, len(prompt) - 2 : len(whole) - 1] = whole[len(prompt) - 1 :]
        if hinted:
            ends = [place - 1 for place, piece in enumerate(prompts[row].tokens) if piece in (",", ".")]
            for place, label in zip(ends, label_task.clause_labels(pairs[row][0]), strict=True):
                wanted[row, place] = tokenizer.token_to_id(label)
    return ids, wanted


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [B,T,H,D] with its positions in, as LlamaForCausalLM turns it."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def cast_weights(model: LlamaForCausalLM, dtype: torch.dtype) -> list[Tensor]:
    """The model's weights in `dtype`, in the order `answer_logits` takes them; matrices with one input are joined."""
    ordered = [model.model.embed_tokens.weight]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        ordered += [
            layer.input_layernorm.weight,
            torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
            attention.o_proj.weight,
            layer.post_attention_layernorm.weight,
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
            mlp.down_proj.weight,
        ]
    return [weight.to(dtype) for weight in [*ordered, model.model.norm.weight, model.lm_head.weight]]


def answer_logits(weights: list[Tensor], ids: Tensor, asked: Tensor) -> Tensor:
    """The logits [N,V] of the N asked places: LlamaForCausalLM's forward with fewer steps around the products."""
    embedding, *inner, last_norm, head = weights
    width, heads, kv_heads = (SHAPE[name] for name in ("head_dim", "num_attention_heads", "num_key_value_heads"))
    turns = decoder_shape.ROPE_BASE ** (-torch.arange(0, width, 2) / width) * torch.arange(ids.shape[1])[:, None]
    cos, sin = (each[:, None].to(head.dtype) for each in (turns.cos(), turns.sin()))

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, SHAPE["rms_norm_eps"])

    x = functional.embedding(ids, embedding)
    for at in range(0, len(inner), 6):
        attention_norm, into_qkv, out, mlp_norm, into_gates, down = inner[at : at + 6]
        joined = functional.linear(normed(x, attention_norm), into_qkv).unflatten(-1, (-1, width))
        q, k, v = joined.split([heads, kv_heads, kv_heads], dim=2)
        q, k, v = (each.transpose(1, 2).float() for each in (turned(q, cos, sin), turned(k, cos, sin), v))
        k, v = (each.repeat_interleave(heads // kv_heads, dim=1) for each in (k, v))
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + functional.linear(seen.transpose(1, 2).flatten(2).to(x.dtype), out)
        gate, up = functional.linear(normed(x, mlp_norm), into_gates).chunk(2, dim=-1)
        x = x + functional.linear(functional.silu(gate) * up, down)
    return functional.linear(normed(x[asked], last_norm), head).float()


def missed_rows(logits: Tensor, wanted: Tensor) -> float:
    """The share of rows that greedy decoding would not answer exactly: any place whose best id is not the asked one."""
    asked = wanted != PAD
    wrong = torch.zeros_like(asked)
    wrong[asked] = logits.argmax(dim=-1) != wanted[asked]
    return wrong.any(dim=1).float().mean().item()


def learn(model: LlamaForCausalLM, tokenizer: Tokenizer, progress: Progress, seed: int) -> float:
    """Leave the gradients of one step in the model; returns its loss. An answer weighs the root of its length."""
    weights = cast_weights(model, torch.bfloat16)
    total, total_weight = torch.zeros(()), torch.zeros(())
    for task, pairs in step_pairs(progress, seed).items():
        ids, wanted = batch_of(tokenizer, pairs, hinted=task == "label")
        asked = wanted != PAD
        logits = answer_logits(weights, ids, asked)
        nats = functional.cross_entropy(logits, wanted[asked], reduction="none")
        root_length = asked.sum(dim=1).sqrt()
        total = total + (nats / root_length[:, None].expand_as(asked)[asked]).sum()
        total_weight = total_weight + root_length.sum()
        progress.note(task, missed_rows(logits.detach(), wanted))
    loss = total / total_weight
    loss.backward()
    return loss.item()


def watch(model: LlamaForCausalLM, tokenizer: Tokenizer) -> dict[str, float]:
    """The error of each task on the watched held-out draw, in fp32."""
    errors = {}
    weights = cast_weights(model, torch.float32)
    with torch.inference_mode():
        for task in tasks.TASKS:
            ids, wanted = batch_of(tokenizer, tasks.held_out_pairs(task, WATCH_ROWS, WATCH_SEED))
            errors[task] = round(missed_rows(answer_logits(weights, ids, wanted != PAD), wanted), 3)
    return errors


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embedding, head and norms; each group with its peak rate."""
    named = dict(model.named_parameters())
    inner = [name for name, parameter in named.items() if parameter.dim() == 2 and "layers" in name]
    embedding = ["model.embed_tokens.weight"]
    groups = [
        {"params": [named[name] for name in embedding], "peak": EMBEDDING_RATE},
        {"params": [named[name] for name in named if name not in inner + embedding], "peak": OTHER_RATE},
    ]
    muon = torch.optim.Muon([{"params": [named[name] for name in inner], "peak": MUON_RATE}], weight_decay=0.01)
    return [muon, torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def save_state(path: Path, model: LlamaForCausalLM, rules: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Write what --resume reads; a kill in between leaves the older state whole."""
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "rules": [rule.state_dict() for rule in rules], "progress": asdict(progress)}
    torch.save(state, partial)
    partial.replace(path)


def restored(path: Path, model: LlamaForCausalLM, rules: list[torch.optim.Optimizer]) -> Progress:
    """The progress of a stored run, whose weights and optimizer state are put into `model` and `rules`."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for rule, stored in zip(rules, state["rules"], strict=True):
        rule.load_state_dict(stored)
    return Progress(**state["progress"])


def take_step(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    rules: list[torch.optim.Optimizer],
    progress: Progress,
    *,
    seed: int,
    rate_frac: float,
) -> float:
    """One step of the run at a share of the peak rates; returns its loss."""
    loss = learn(model, tokenizer, progress, seed)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for rule in rules:
        for group in rule.param_groups:
            group["lr"] = group["peak"] * rate_frac
        rule.step()
        rule.zero_grad(set_to_none=True)
    progress.step += 1
    return loss


def train(options: argparse.Namespace) -> None:
    """Train until the minutes are over, saving the state at every look and the model at the end."""
    tokenizer = decoder_vocabulary.build()
    model, progress = decoder_shape.fresh_model(tokenizer.get_vocab_size(), options.seed).train(), Progress()
    rules = optimizers(model)
    if options.state.exists():
        progress = restored(options.state, model, rules)
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters, step {progress.step}", flush=True)
    while progress.minutes < options.minutes:
        started_s, loss, first_step = time.process_time(), 0.0, progress.step
        base_minutes = progress.minutes
        until = min(progress.minutes + options.look_minutes, options.minutes)
        while progress.minutes < until:
            share = rate(progress, options.minutes)
            loss += take_step(model, tokenizer, rules, progress, seed=options.seed, rate_frac=share)
            progress.minutes = base_minutes + (time.process_time() - started_s) / 60
        save_state(options.state, model, rules, progress)
        steps = progress.step - first_step
        now = {task: f"stage {progress.stage[task]} {error:.3f}" for task, error in progress.error.items()}
        print(f"{progress.minutes:.1f} min, step {progress.step}, loss {loss / steps:.4f}, missed {now}", flush=True)
        print(f"    held out {watch(model, tokenizer)}", flush=True)
    decoder_shape.save_model(model, options.out)


def main() -> None:
    """Parse the options and train."""
    parser = options_of(
        __doc__,
        DECODER_DIR,
        minutes="processor minutes of training, looks not counted",
        threads=1,
        state="kept outside the repository; taken up if it exists",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
