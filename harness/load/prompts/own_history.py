"""Conversations whose history is what the server itself answered: the messages of a turn once those before it are over.

Both who sends a load and who reads its records make a turn here, from the same answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from engines.models.chat_template import ChatTemplate
from harness.load.plan import NO_TURN, LoadPlan
from harness.records import Kept, Message, Prompt


class OwnTurns:
    """The turns of a plan with own_history, made of the answers that it is given."""

    def __init__(self, plan: LoadPlan) -> None:
        assert plan.own_history is not None
        self._turns, self._follows = plan.turns, plan.follows
        self._answers: dict[int, str] = {}
        self._ids: dict[int, str] = {}
        form = plan.own_history
        self._is_kept = form.is_kept
        self._template = ChatTemplate(form.template, form.special_tokens, "the served model") if form.template else None

    def keep_answer(self, seq: int, answer: str, response_id: str = "") -> None:
        """The answer to measured request `seq`, which the turns behind it carry, and the id by which the server keeps
        it."""
        self._answers[seq], self._ids[seq] = answer, response_id

    def turn(self, seq: int) -> Prompt:
        """Turn `seq` with the server's answers in place of the file's; where one before it failed, the file's stays."""
        before = self._follows[seq]
        if before == NO_TURN:
            return replace(self._turns[seq], kept=Kept()) if self._is_kept else self._turns[seq]
        questions = [before]
        while (before := self._follows[before]) != NO_TURN:
            questions.insert(0, before)
        own = [self._answers.get(question) for question in questions]
        messages = tuple(with_answers(self._turns[seq].messages, own))
        text = "\n\n".join(content for _, content in messages)
        rendered = None
        if self._template is not None:
            rendered = self._template.render([{"role": role, "content": content} for role, content in messages])
        kept = self._kept(messages, questions) if self._is_kept else None
        return replace(self._turns[seq], text=text, messages=messages, rendered=rendered, kept=kept)

    def _kept(self, messages: Sequence[Message], questions: Sequence[int]) -> Kept:
        """What the server has: all up to its last answer to one of these `questions`, which are the first in the
        messages."""
        answered = [number for number, question in enumerate(questions) if question in self._ids]
        if not answered:
            return Kept()
        asking = [place for place, (role, _) in enumerate(messages) if role == "user"]
        return Kept(response_id=self._ids[questions[answered[-1]]], messages=asking[answered[-1]] + 2)

    def known_before(self, turn: Prompt, seq: int) -> int:
        """With how many characters the turn before `seq` in its conversation begins as `turn` does."""
        before = self._follows[seq]
        return 0 if before == NO_TURN else common_length(turn.model_text, self.turn(before).model_text)


def with_answers(messages: Sequence[Message], own: Sequence[str | None]) -> Iterator[Message]:
    """`messages` with the `own` answers to their questions, from the first one on, None where there is none: then what
    the messages have stays."""
    answered, is_own = 0, False
    for role, content in messages:
        if role != "assistant":
            is_own = False
        if not is_own:
            yield role, content
        if role == "user" and answered < len(own):
            answer = own[answered]
            answered += 1
            if answer is not None:
                is_own = True
                yield "assistant", answer


def common_length(one: str, other: str) -> int:
    """Characters with which both begin."""
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )
