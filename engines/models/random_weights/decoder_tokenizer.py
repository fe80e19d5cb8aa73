"""A byte-level BPE tokenizer for decoder-only folders with random weights: no corpus, no download, every text is legal.

The 256 bytes, then merges of letters to pairs, triples and quadruples (with and without a blank before) up to the
vocabulary size. Prompts of different texts give different ids; nothing else about it is meaningful. Every engine that
reads a GPT-2 kind of tokenizer.json reads this one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|stop|>")
"""Ids 0 to 5. The roles' markers are those of the chat template; the last is a second end token."""

PAD, BOS, EOS, STOP = 0, 1, 2, 5

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_BLANK = "\u0120"
"""How byte-level BPE writes a blank."""
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
"""The most frequent first, so that a small vocabulary holds likely words."""


def write_bpe_tokenizer(
    folder: Path, vocab_size: int, *, adds_bos: bool = True, has_chat_template: bool = True
) -> None:
    """Write tokenizer.json, tokenizer_config.json and, if wanted, the chat template. `vocab_size` is 262 or more."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = list(islice(_merges(), vocab_size - len(words)))
    vocabulary = {word: number for number, word in enumerate([*words, *(left + right for left, right in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": SPECIAL[PAD],
        "bos_token": SPECIAL[BOS],
        "eos_token": SPECIAL[EOS],
        "unk_token": SPECIAL[PAD],
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if has_chat_template:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs before triples before quadruples; each is made of words that come before it."""
    for first in _LETTERS:
        yield _BLANK, first
    for size in (2, 3, 4):
        for letters in product(_LETTERS, repeat=size):
            word = "".join(letters)
            yield word[:-1], word[-1]
            yield _BLANK + word[:-1], word[-1]
