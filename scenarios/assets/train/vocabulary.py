"""Builds the bundled model's tokenizer: whole words of the four tasks, single characters for everything else.

The form is T5's: a Unigram model over `▁` pieces, ids 0 pad, 1 end, 2 unknown, `</s>` appended. Every word scores alike
and far above its letters, so a known word is one piece, a number is its digits, and unseen ASCII text falls apart into
characters. Run as a script it writes the tokenizer: `python scenarios/assets/train/vocabulary.py`.
"""

import json
import random
import re
import string
from pathlib import Path

import tasks
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

MODEL_DIR = Path(__file__).parent.parent / "flan-t5-bench"
SPECIALS = ("<pad>", "</s>", "<unk>")
SUFFIXES = ("st", "nd", "rd", "th", "-one", "-two", "-three", "-four", "-five", "-six", "-seven", "-eight", "-nine")
WORD_SCORE = -8.0
CHARACTER_SCORE = -12.0
MULTIPLE = 8  # of the vocabulary's size, as tensor cores and packed kernels like it
SAMPLES_PER_TASK = 20_000  # every word of the closed vocabularies turns up many times over
SEED = 1
_WORD = re.compile(r"w/o?|[A-Za-z']+")
_ABBREVIATION = re.compile(r"[A-Za-z]+\.")


def _abbreviations() -> set[str]:
    """The dotted words of the rewrite task, `Dr.` and `approx.` among them."""
    import rewrite_task

    texts = [filler.split("|")[0] for fillers in rewrite_task.SLOTS.values() for filler in fillers if "|" in filler]
    texts += [match[1] for match in rewrite_task.PAIR.finditer(" ".join(rewrite_task.TEMPLATES))]
    return {word for text in texts for word in text.split() if _ABBREVIATION.fullmatch(word)}


def words() -> list[str]:
    """Every word of the four tasks, sorted; abbreviations keep their dot."""
    abbreviations = _abbreviations()
    found = set(abbreviations)
    for task in tasks.TASKS:
        rng = random.Random(f"{task}:{SEED}")
        for _ in range(SAMPLES_PER_TASK):
            for text in tasks.TASKS[task](rng):
                for chunk in text.split():
                    if chunk not in abbreviations and (match := _WORD.match(chunk)):
                        found.add(match[0])
    return sorted(found)


def pieces() -> list[tuple[str, float]]:
    """The vocabulary in id order with Unigram scores; padded with T5's sentinels to a multiple of 8."""
    characters = sorted(set(string.printable) - set(string.whitespace))
    listed = [(token, 0.0) for token in SPECIALS]
    listed += [("▁", CHARACTER_SCORE)] + [(character, CHARACTER_SCORE) for character in characters]
    listed += [(suffix, WORD_SCORE) for suffix in SUFFIXES]
    listed += [(f"▁{word}", WORD_SCORE) for word in words()]
    return listed + [(f"<extra_id_{i}>", 0.0) for i in range(-len(listed) % MULTIPLE)]


def build() -> Tokenizer:
    """The tokenizer, ready to be saved."""
    listed = pieces()
    tokenizer = Tokenizer(models.Unigram(listed, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens([token for token, _ in listed if token.startswith("<") and len(token) > 1])
    return tokenizer


def main() -> None:
    """Write tokenizer.json and its config beside the weights."""
    MODEL_DIR.mkdir(parents=True, exist_ok=True)
    tokenizer = build()
    tokenizer.save(str(MODEL_DIR / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (MODEL_DIR / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{MODEL_DIR}: {tokenizer.get_vocab_size()} pieces")


if __name__ == "__main__":
    main()
