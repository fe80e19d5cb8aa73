"""The log-probability that a candidate's answers lose under the reference, asked when no prompt has a right answer.

The reference's model is loaded in a separate process once the candidate has stopped, for the answers that differ from
the reference's own; equal ones lose nothing. Token ids come from servers that give them. Text is tokenized again,
which is trusted for a prompt only where the reference's own text comes back as the ids that it wrote.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from engines.environments.locate import installed_python
from engines.environments.packages import package_availability
from engines.errors import EngineError
from engines.models.checkpoint.special_ids import special_ids
from engines.models.tokenizer import Tokenizer
from engines.processes.call_in_child import call_in_child
from engines.registry import REFERENCE_ENGINE, REFERENCE_PACKAGES
from harness.quality.logprob import LogprobDrops
from harness.records import Prompt
from harness.trial.ask_prompts import Answers
from harness.trial.inputs import TrialInputs
from harness.trial.progress import Progress
from harness.trial.reference import Reference

Ids = tuple[int, ...]
TRUSTED_FRAC = 0.5
"""Where fewer of the reference's own texts come back as the ids that it wrote, text gives no log-probabilities."""


class AnswerScorer:
    """Judges the answers of a run's candidates; what was scored once is remembered."""

    def __init__(self, inputs: TrialInputs, reference: Reference, progress: Progress) -> None:
        self._inputs = inputs
        self._folder = inputs.reference_dir or inputs.model_dir
        self._reference = reference
        self._progress = progress
        self._known: dict[tuple[str, Ids], float] = {}

    def drops(self, asked: Answers) -> LogprobDrops:
        """What each answer of `asked` loses under the reference; of prompts that both answered."""
        under = self._reference.source
        if not self._reference.token_ids:
            why = "the reference gave no token ids"
            return LogprobDrops(nats={}, under=under, unavailable=why)
        try:
            return self._scored(asked)
        except (EngineError, MemoryError) as error:
            return LogprobDrops(nats={}, under=under, unavailable=str(error))

    def _scored(self, asked: Answers) -> LogprobDrops:
        ended = _Endings(self._folder, self._inputs.scenario.workload.parameters.max_new_tokens)
        ours: dict[str, Ids] = {}
        theirs = {prompt_id: ended(ids) for prompt_id, ids in self._reference.token_ids.items()}
        compared = [each for each in self._inputs.quality_prompts if self._is_compared(each, asked)]
        tokenizer = Tokenizer.load(self._folder)
        for prompt in compared:
            if (ids := self._ids(prompt, asked, theirs[prompt.prompt_id], tokenizer, ended)) is not None:
                ours[prompt.prompt_id] = ids
        if len(ours) < TRUSTED_FRAC * len(compared) or not ours:
            why = (
                f"the server gives no token ids, and the reference's own text comes back as the ids that it wrote for "
                f"{len(ours)} of {len(compared)} prompts only"
            )
            return LogprobDrops(nats={}, under=self._reference.source, unavailable=why)
        differing = [
            prompt for prompt in compared if ours.get(prompt.prompt_id) not in (None, theirs[prompt.prompt_id])
        ]
        self._score([(each, ids[each.prompt_id]) for each in differing for ids in (ours, theirs)], tokenizer)
        nats = dict.fromkeys(ours, 0.0)
        for prompt_id in (prompt.prompt_id for prompt in differing):
            nats[prompt_id] = self._known[prompt_id, ours[prompt_id]] - self._known[prompt_id, theirs[prompt_id]]
        return LogprobDrops(nats=nats, under=self._reference.source, left_out=len(compared) - len(ours))

    def _is_compared(self, prompt: Prompt, asked: Answers) -> bool:
        return prompt.prompt_id in self._reference.token_ids and prompt.prompt_id in asked.texts

    def _ids(self, prompt: Prompt, asked: Answers, theirs: Ids, tokenizer: Tokenizer, ended: _Endings) -> Ids | None:
        """The ids of the candidate's answer; None where they cannot be known."""
        prompt_id = prompt.prompt_id
        if prompt_id in asked.token_ids:
            return ended(asked.token_ids[prompt_id])
        if asked.texts[prompt_id] == self._reference.answers[prompt_id]:
            return theirs
        if ended(_answer_ids(tokenizer, prompt, self._reference.answers[prompt_id])) != theirs:
            return None
        return ended(_answer_ids(tokenizer, prompt, asked.texts[prompt_id]))

    def _score(self, rows: Sequence[tuple[Prompt, Ids]], tokenizer: Tokenizer) -> None:
        new = [row for row in rows if (row[0].prompt_id, row[1]) not in self._known]
        if not new:
            return
        self._progress.note(f"scoring {len(new)} answers under the reference")
        wanted = {
            "min_new_tokens": self._inputs.scenario.workload.parameters.min_new_tokens or 0,
            "rows": [(_encoded(tokenizer, prompt), ids) for prompt, ids in new],
        }
        is_here = package_availability(REFERENCE_PACKAGES, REFERENCE_ENGINE).is_available
        python = None if is_here else installed_python(REFERENCE_ENGINE)
        with tempfile.TemporaryDirectory(prefix="dyno-scores-") as folder:
            asked, written = Path(folder) / "asked.json", Path(folder) / "written.json"
            asked.write_text(json.dumps(wanted), encoding="utf-8")
            call_in_child(
                "engines.generation.answer_scores",
                "answer_scores",
                [str(self._folder), self._reference.dtype, str(asked), str(written)],
                str(python) if python else None,
            )
            found: Sequence[float] = json.loads(written.read_text(encoding="utf-8"))
        self._known.update({(prompt.prompt_id, ids): nats for (prompt, ids), nats in zip(new, found, strict=True)})


class _Endings:
    """Answers closed by the end token that ended them, which some servers leave out."""

    def __init__(self, folder: Path, most: int) -> None:
        self._eos = special_ids(folder).eos
        self._most = most

    def __call__(self, ids: Ids) -> Ids:
        """An answer shorter than it might have been was ended by an end token."""
        is_open = len(ids) < self._most and (not ids or ids[-1] not in self._eos)
        return (*ids, self._eos[0]) if is_open or not ids else ids


def _encoded(tokenizer: Tokenizer, prompt: Prompt, answer: str = "") -> Ids:
    """The ids of what the model reads: a chat template's text names its own special tokens."""
    text = prompt.model_text + answer
    return tokenizer.encode(text) if prompt.rendered is None else tokenizer.encode_rendered(text)


def _answer_ids(tokenizer: Tokenizer, prompt: Prompt, answer: str) -> Ids:
    """The ids that `answer` adds to its prompt; of an encoder's model, its own."""
    if tokenizer.is_closed:
        return tokenizer.encode(answer)
    before, whole = _encoded(tokenizer, prompt), _encoded(tokenizer, prompt, answer)
    return whole[len(before) :] if whole[: len(before)] == before else tokenizer.encode_rendered(answer)
