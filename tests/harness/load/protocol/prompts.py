"""Prompts of plain texts."""

from __future__ import annotations

from harness.records import Prompt


def prompts_of_texts(*texts: str) -> tuple[Prompt, ...]:
    """One prompt of each text."""
    return tuple(Prompt(prompt_id=f"p{at}", task="t", text=text, reference=None) for at, text in enumerate(texts))
