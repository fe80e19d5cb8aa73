"""Request lengths: what each request carries, cut from a corpus to a number of tokens, and max_new_tokens per request.

No tokenizer runs in a load process: where each text stands in the corpus was computed before, and is in the plan. Runs
stored before there was a corpus cut or repeat each prompt's own words instead (`tokens_per_word` and `end_tokens` of
the plan are the estimate); what the server counted stands in the records either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.load.corpus.spans import Cut, text_of
from harness.load.plan import LoadPlan
from harness.load.prompts.own_history import OwnTurns
from harness.load.prompts.prompts_file import RequestOrder
from harness.records import Prompt

CORPUS = "corpus"
"""The task of a prompt that was cut from the corpus, and how its id begins."""


class SentPrompts:
    """The prompts that each request of a plan carries: those of the prompts file in their seeded order, or texts cut
    from its corpus."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._order = RequestOrder(plan.prompts, plan.inputs_per_request, plan.seed)
        self.own_turns = OwnTurns(plan) if plan.own_history is not None else None

    def measured(self, seq: int) -> tuple[Prompt, ...]:
        """The prompts of measured request `seq`, from 0."""
        if self.own_turns is not None:
            return (self.own_turns.turn(seq),)
        if self._plan.turns:
            return (self._plan.turns[seq],)
        before = self._plan.sent_before
        return self._cut(self._plan.cuts, seq, "", before) or self._order.measured(before + seq)

    def warmup(self, seq: int) -> tuple[Prompt, ...]:
        """The prompts of warm-up request `seq`, from 0."""
        return self._cut(self._plan.warmup_cuts, seq, "warmup-") or self._order.warmup(seq)

    def _cut(self, cuts: Sequence[Cut], seq: int, prefix: str, before: int = 0) -> tuple[Prompt, ...]:
        """() where this request has no text of the corpus; the texts of a launch are numbered on from `before`."""
        begin = seq * self._plan.inputs_per_request
        found = cuts[begin : begin + self._plan.inputs_per_request]
        if not found or not all(found):
            return ()
        first = begin + before * self._plan.inputs_per_request
        return tuple(
            self._prompt(f"{CORPUS}-{prefix}{first + place}", text_of(self._plan.corpus, cut))
            for place, cut in enumerate(found)
        )

    def _prompt(self, prompt_id: str, text: str) -> Prompt:
        around = self._plan.around
        rendered = f"{around[0]}{text}{around[1]}" if around else None
        return Prompt(prompt_id=prompt_id, task=CORPUS, text=text, reference=None, rendered=rendered)


def shaped(plan: LoadPlan, seq: int, prompts: Sequence[Prompt]) -> tuple[tuple[Prompt, ...], dict[str, object] | None]:
    """The prompts of request `seq` at its input length, and its parameters at its output length (None: the plan's).

    A request of several prompts shares its lengths equally among them. An output length sets max_new_tokens, and
    min_new_tokens too where the server has a word for it, so that it writes exactly as many.
    """
    asked = asked_input(plan, seq)
    each = _output_each(plan, seq, len(prompts))
    if asked is not None and not plan.cuts:
        length = asked / len(prompts) - plan.end_tokens
        prompts = [
            replace(p, text=of_length(p.text, length / plan.tokens_per_word.get(p.prompt_id, 1))) for p in prompts
        ]
    if each is None:
        return tuple(prompts), None
    least = {} if plan.dialect.exact_tokens == "none" else {"min_new_tokens": each}
    return tuple(prompts), {**plan.parameters, "max_new_tokens": each, **least}


def asked_input(plan: LoadPlan, seq: int) -> int | None:
    """Tokens of measured request `seq` where a trace or workload.lengths asks for so many."""
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
