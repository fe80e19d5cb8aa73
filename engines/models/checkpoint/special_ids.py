"""The special token ids of a model folder, which begin, pad and end an answer: eos, pad, decoder start, bos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid
from engines.models.checkpoint.kind import SEQ2SEQ, model_kind, read_config, read_json, text_config


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """The ids that steer decoding; generation_config.json wins over config.json, as in Hugging Face.

    A decoder-only model has no `start`: its answer continues the prompt. Where it has no pad, eos is used.
    """

    eos: tuple[int, ...]
    pad: int
    start: int | None
    bos: int | None = None

    @property
    def is_decoder(self) -> bool:
        """Whether answers continue the prompt itself."""
        return self.start is None

    def before_answer(self, input_ids: Sequence[int]) -> tuple[int, ...]:
        """The ids that the decoder continues: the start id, or the prompt of a decoder-only model."""
        return tuple(input_ids) if self.start is None else (self.start,)


def special_ids(path: Path) -> SpecialIds:
    """The folder's eos, pad, decoder start and bos ids. Raises ModelInvalid when one that is needed is missing or not a
    number."""
    config = read_config(path)
    kind = model_kind(path)
    is_seq2seq = kind.name == SEQ2SEQ
    merged = {name: value for name, value in {**text_config(config), **config}.items() if value is not None}
    generation = path / "generation_config.json"
    if generation.is_file():
        merged |= {
            name: value for name, value in read_json(generation, "correct or remove it").items() if value is not None
        }
    eos = merged.get("eos_token_id", 1 if is_seq2seq else None)
    ids = tuple(eos) if isinstance(eos, list) else (eos,)
    pad: Any = merged.get("pad_token_id", 0 if is_seq2seq else ids[0] if ids else None)
    start = merged.get("decoder_start_token_id", pad) if is_seq2seq else None
    bos = merged.get("bos_token_id")
    vocab = kind.vocab_size
    others = (pad, start) if is_seq2seq else (pad,)
    are_numbers = all(isinstance(number, int) and number >= 0 for number in (*ids, *others))
    if are_numbers:
        ids = tuple(number for number in dict.fromkeys(ids) if number < vocab)  # no such token can be chosen
    if not ids or not are_numbers or max(others) >= vocab:
        begin = f", decoder start {start!r}" if is_seq2seq else ""
        which = "config.json, or generation_config.json which goes before it" if generation.is_file() else "config.json"
        raise ModelInvalid(
            f"{path}: eos {eos!r:.80}, pad {pad!r:.80}{begin:.80}: expected token ids below vocab_size {vocab}; "
            f"correct {which}"
        )
    return SpecialIds(eos=ids, pad=pad, start=start, bos=bos if isinstance(bos, int) else None)
