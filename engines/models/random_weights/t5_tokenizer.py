"""A tokenizer for model folders with random weights: no corpus, no download, about three letters to a token.

A WordPiece vocabulary made of every printable ASCII character, every pair of letters and as many letter triples as fit,
then fillers up to the vocabulary size less T5's 28 spare rows. Different prompts give different ids and lengths near
those of T5's own tokenizer, which is what speed work needs; nothing else about it is meaningful.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase, digits, punctuation

SPECIAL = ("<pad>", "</s>", "<unk>")
SPARE_ROWS = 28
"""T5 has 32,100 words in 32,128 rows; the spare rows stay unnamed here too."""


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = len_words(vocab_size)
    vocabulary = {word: number for number, word in enumerate(islice(_words(), words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix="##"))  # noqa: S106
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def len_words(vocab_size: int) -> int:
    """How many of `vocab_size` rows get a word."""
    return vocab_size - SPARE_ROWS if vocab_size > 1024 else vocab_size


def _words() -> Iterator[str]:
    yield from SPECIAL
    characters = ascii_lowercase + digits + punctuation
    for size in (1, 2, 3):
        alphabet = characters if size == 1 else ascii_lowercase
        for letters in product(alphabet, repeat=size):
            yield "##" + "".join(letters)
            yield "".join(letters)
