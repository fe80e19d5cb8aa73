"""Prompts of plain texts."""

from __future__ import annotations

from harness.records import Prompt

TALK = Prompt(
    prompt_id="talk",
    task="t",
    text="",
    reference=None,
    messages=(("system", "spell"), ("user", "spell: 42"), ("assistant", "forty-two"), ("user", "spell: 1,306,346")),
)
"""A conversation of four messages."""


def prompts_of_texts(*texts: str) -> tuple[Prompt, ...]:
    """One prompt of each text."""
    return tuple(Prompt(prompt_id=f"p{at}", task="t", text=text, reference=None) for at, text in enumerate(texts))
