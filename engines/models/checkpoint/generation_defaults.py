"""The generation parameters in a model folder's generation_config.json, and which of them are not obeyed here.

As in Hugging Face's `generate`: a request's own parameters win; without that file the same entries of config.json count
(summarizers of before 2023 have them there), and `task_specific_params` never do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.models.checkpoint.kind import SEQ2SEQ_TYPES, read_config, read_json
from engines.models.checkpoint.unservable import adapter_notes

Value = bool | int | float | str


def _is_whole(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_OBEYED: Mapping[str, Callable[[Any], bool]] = {
    "max_new_tokens": _is_whole(1),
    "min_new_tokens": _is_whole(0),
    "num_beams": _is_whole(1),
    "length_penalty": _is_number,
    "early_stopping": lambda value: isinstance(value, bool) or value == "never",
    "do_sample": lambda value: isinstance(value, bool),
    "temperature": lambda value: _is_number(value) and value > 0,
    "top_k": _is_whole(0),
    "top_p": lambda value: _is_number(value) and 0 < value <= 1,
    "repetition_penalty": lambda value: _is_number(value) and value > 0,
    "no_repeat_ngram_size": _is_whole(0),
}
"""Entries that are parameters of a request here, and their sensible values."""

_WHOLE_LENGTHS = {"max_length": ("max_new_tokens", 2), "min_length": ("min_new_tokens", 1)}
"""Lengths of all that an encoder-decoder's decoder holds, its start token included, what they limit, and the least that
means something; the new tokens win over them."""

_PLAIN: Mapping[str, Value] = {
    "num_beams": 1, "length_penalty": 1.0, "early_stopping": False, "do_sample": False, "temperature": 1.0, "top_k": 50,
    "top_p": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0,
}  # fmt: skip
"""Values that change nothing; they are not worth a note."""

_UNABLE = (
    "bad_words_ids", "begin_suppress_tokens", "constraints", "diversity_penalty", "dola_layers",
    "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff",
    "exponential_decay_length_penalty", "force_words_ids", "forced_bos_token_id", "forced_decoder_ids",
    "forced_eos_token_id", "guidance_scale", "max_time", "min_p", "num_beam_groups", "num_return_sequences",
    "penalty_alpha", "remove_invalid_values", "renormalize_logits", "sequence_bias", "stop_strings", "suppress_tokens",
    "top_h", "typical_p", "watermarking_config",
)  # fmt: skip
"""Entries that change Hugging Face's answers and that no engine here knows."""

_ONE_IS_OFF = (
    "encoder_repetition_penalty", "guidance_scale", "num_beam_groups", "num_return_sequences", "top_h", "typical_p",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """`values` hold for requests that leave the parameter out; `ignored` would change Hugging Face's answers and do not
    change ours. `source` is the file's name."""

    source: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    ignored: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for a report: the entries that are obeyed, and those that are not."""
        obeyed = {name: value for name, value in self.values.items() if value != _PLAIN.get(name)}
        found = []
        if obeyed:
            found.append(f"{self.source}: {_listed(obeyed)}, where a request gives no other")
        if self.ignored:
            found.append(f"{self.source}: not obeyed: {_listed(self.ignored)}")
        return tuple(found)


def generation_defaults(folder: Path) -> GenerationDefaults:
    """Those of a model folder; none of a folder without config.json. Raises ModelInvalid for a file that is no JSON."""
    if not (folder / "config.json").is_file():
        return GenerationDefaults()
    source, raw = "config.json", read_config(folder)
    is_seq2seq = raw["model_type"] in SEQ2SEQ_TYPES
    if (folder / "generation_config.json").is_file():
        source = "generation_config.json"
        raw = read_json(folder / source, "correct or remove it")
    given = {name: value for name, value in raw.items() if value is not None}
    values = {name: given[name] for name, is_sensible in _OBEYED.items() if name in given and is_sensible(given[name])}
    ignored = {name: given[name] for name in _OBEYED if name in given and name not in values}
    for whole, (name, low) in _WHOLE_LENGTHS.items():
        if whole not in given or name in given:
            continue
        if is_seq2seq and _is_whole(low)(given[whole]):
            values[name] = given[whole] - 1
        elif given[whole]:
            ignored[whole] = given[whole]
    if not is_seq2seq and values.get("do_sample"):  # greedy unless a request asks: answers are compared between engines
        ignored["do_sample"] = values.pop("do_sample")
    if values.get("do_sample") and values.get("num_beams", 1) > 1:  # the rarer of the two
        ignored["do_sample"] = values.pop("do_sample")
    ignored |= {name: given[name] for name in _UNABLE if name in given and not _is_off(name, given[name])}
    return GenerationDefaults(source=source, values=values, ignored=ignored)


def model_notes(folder: Path) -> tuple[str, ...]:
    """Notes of every engine on the model folder that it has loaded. Raises ModelInvalid."""
    return (*generation_defaults(folder).notes, *adapter_notes(folder))


def _is_off(name: str, value: Any) -> bool:
    return not value or (name in _ONE_IS_OFF and value == 1)


def _listed(entries: Mapping[str, Any]) -> str:
    texts = {name: json.dumps(value) for name, value in entries.items()}
    return ", ".join(f"{name} {text if len(text) <= 60 else text[:57] + '...'}" for name, text in texts.items())
