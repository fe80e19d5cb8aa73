"""Builds the bundled decoder's tokenizer: byte-level BPE whose merges end in the whole words of the four tasks.

The form is SmolLM's, which llama.cpp reads too (vocabulary `gpt2`, pre-tokenizer `smollm`): digits stand alone, a word
carries the blank before it, `<s>` is put first, and nothing is appended. A newline parts a prompt from its answer; the
chat template renders one user message and that newline.
Run as a script it writes the tokenizer: `python scenarios/assets/train/decoder_vocabulary.py`.
"""

import json
import random
from pathlib import Path

import tasks
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

DECODER_DIR = Path(__file__).parent.parent / "llama-bench"
SPECIALS = ("<pad>", "</s>", "<unk>", "<s>")
PAD, END, START = 0, 1, 3
CEILING = 2048  # never reached: merges end when every word of the tasks is one piece
MULTIPLE = 64  # of the vocabulary's size: blocks of 32 in quantised files, tensor parallel 2
SAMPLES_PER_TASK = 5_000
SEED = 1
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] | trim + '\\n' }}{% endfor %}"


def _texts() -> list[str]:
    """Prompts with their newline, and references, of every task."""
    found = []
    for task, draw in tasks.TASKS.items():
        rng = random.Random(f"{task}:{SEED}")
        for _ in range(SAMPLES_PER_TASK):
            prompt, reference = draw(rng)
            found += [f"{prompt}\n", reference]
    return found


def build() -> Tokenizer:
    """The tokenizer, ready to be saved."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CEILING,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    spare = -tokenizer.get_vocab_size() % MULTIPLE
    tokenizer.add_special_tokens([f"<reserved_{i}>" for i in range(spare)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", START)]
    )
    return tokenizer


def main() -> None:
    """Write tokenizer.json, its config and the chat template beside the weights."""
    DECODER_DIR.mkdir(parents=True, exist_ok=True)
    tokenizer = build()
    tokenizer.save(str(DECODER_DIR / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (DECODER_DIR / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (DECODER_DIR / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    print(f"{DECODER_DIR}: {tokenizer.get_vocab_size()} pieces")


if __name__ == "__main__":
    main()
