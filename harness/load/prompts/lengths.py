"""Request lengths: prompts cut or repeated to a number of tokens, and max_new_tokens per request.

Tokens are estimated from words (`tokens_per_word` and `end_tokens` of the plan), since no tokenizer runs in a load
process; what the server counted stands in the records, so the error of the estimate can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.load.plan import LoadPlan
from harness.records import Prompt


def shaped(plan: LoadPlan, seq: int, prompts: Sequence[Prompt]) -> tuple[tuple[Prompt, ...], dict[str, object] | None]:
    """The prompts of request `seq` at its input length, and its parameters at its output length (None: the plan's).

    A request of several prompts shares its lengths equally among them. An output length sets max_new_tokens, and
    min_new_tokens too, so that an engine that honours it writes exactly as many.
    """
    asked = asked_input(plan, seq)
    each = _output_each(plan, seq, len(prompts))
    if asked is not None:
        length = asked / len(prompts) - plan.end_tokens
        prompts = [
            replace(p, text=of_length(p.text, length / plan.tokens_per_word.get(p.prompt_id, 1))) for p in prompts
        ]
    if each is None:
        return tuple(prompts), None
    return tuple(prompts), {**plan.parameters, "max_new_tokens": each, "min_new_tokens": each}


def asked_input(plan: LoadPlan, seq: int) -> int | None:
    """Tokens of measured request `seq` where a trace asks for so many."""
    return plan.input_lengths[seq] if plan.input_lengths else None


def asked_output(plan: LoadPlan, seq: int, prompts: int) -> int | None:
    """Tokens of the answer to measured request `seq` where a fixed number was asked for: an output length, or as many
    new tokens at least as at most."""
    each = _output_each(plan, seq, prompts)
    if each is not None:
        return each * prompts
    least, most = (plan.parameters.get(name) for name in ("min_new_tokens", "max_new_tokens"))
    is_fixed = least == most or plan.parameters.get("ignore_eos") is True
    return most * prompts if isinstance(most, int) and most > 0 and is_fixed else None


def _output_each(plan: LoadPlan, seq: int, prompts: int) -> int | None:
    wanted = plan.output_lengths[seq] if plan.output_lengths else None
    return None if wanted is None else max(1, round(wanted / prompts))


def of_length(text: str, words: float) -> str:
    """`text` cut after, or repeated up to, about `words` words, at least one."""
    count = max(1, round(words))
    own = text.split()
    if len(own) == count:
        return text
    repeated = own * (count // len(own) + 1)
    return " ".join(repeated[:count])


def token_rates(prompts: Sequence[Prompt], model_dir: Path) -> tuple[dict[str, float], int]:
    """(prompt id -> tokens per word, tokens added to every text) by the model's own tokenizer.json; ({}, 0) where it
    has none. Each prompt has its own rate: tasks differ several times over."""
    path = model_dir / "tokenizer.json"
    if not path.is_file():
        return {}, 0
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    encoded = tokenizer.encode_batch([prompt.text for prompt in prompts], add_special_tokens=False)
    rates = {
        prompt.prompt_id: max(0.1, len(one.ids) / max(1, len(prompt.text.split())))
        for prompt, one in zip(prompts, encoded, strict=True)
    }
    return rates, len(tokenizer.encode("").ids)
