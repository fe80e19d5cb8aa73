"""The bundled decoder's tokenizer and training: text comes back whole, hints are right, a stopped run goes on."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("default")
ASSETS = Path(__file__).parents[2] / "scenarios" / "assets"
PROMPTS = ASSETS / "prompts" / "tasks.jsonl"
ODD_TEXTS = ["Zq7~ unseen, odd words!", "def f(x):\n\treturn x", "漢字 🙂", "  two  blanks  "]
VOCAB = 1472


def bundled_tokenizer() -> Any:
    """The bundled one, which is what its builder makes (test_bundled_decoder.py)."""
    return pytest.importorskip("tokenizers").Tokenizer.from_file(str(ASSETS / "llama-bench" / "tokenizer.json"))


def test_tokenizer_gives_every_text_back_and_a_word_of_a_reference_is_one_piece() -> None:
    rows = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    tokenizer = bundled_tokenizer()
    assert tokenizer.get_vocab_size() == VOCAB
    for text in [row[side] for row in rows for side in ("prompt", "reference")] + ODD_TEXTS:
        ids = tokenizer.encode(text).ids
        assert ids[0] == 3
        assert not {0, 1, 2} & set(ids)
        assert tokenizer.decode(ids) == text
    for row in rows:
        pieces = tokenizer.encode(row["reference"], add_special_tokens=False).tokens
        assert len(pieces) == len(re.findall(r"[A-Za-z]+|[^A-Za-z\s]", row["reference"]))
    assert tokenizer.encode("spell: 4014901").tokens[-7:] == list("4014901")


def test_the_labels_of_clauses_hold_the_sentences_own(training_script) -> None:
    clause_labels = training_script("label_task").clause_labels
    for prompt, reference in training_script("tasks").held_out_pairs("label", 500, seed=11):
        found = clause_labels(prompt)
        assert (found[0] if ", although " in prompt else found[-1]) == reference


@pytest.mark.heavy
def test_stages_never_draw_a_held_out_prompt(training_script) -> None:
    pytest.importorskip("torch")
    script, tasks = training_script("train_decoder"), training_script("tasks")
    for task in tasks.TASKS:
        for stage in (1, 4):
            pairs = script.staged_pairs(task, stage, random.Random(5))
            assert not any(tasks.is_held_out(next(pairs)[0]) for _ in range(100))


@pytest.mark.heavy
def test_training_computes_what_transformers_computes(training_script) -> None:
    torch = pytest.importorskip("torch")
    script, shape = training_script("train_decoder"), training_script("decoder_shape")
    model, tokenizer = shape.fresh_model(VOCAB, 1), bundled_tokenizer()
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    ids, wanted = script.batch_of(tokenizer, training_script("tasks").held_out_pairs("label", 5, 3))
    with torch.inference_mode():
        found = script.answer_logits(script.cast_weights(model, torch.float32), ids, wanted != 0)
        expected = model(ids).logits[wanted != 0]
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.heavy
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(training_script, tmp_path: Path, monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    script, shape = training_script("train_decoder"), training_script("decoder_shape")
    tokenizer = bundled_tokenizer()
    monkeypatch.setattr(script, "STEP_TOKENS", 100)
    whole, progress = shape.fresh_model(VOCAB, 1), script.Progress()
    rules = script.optimizers(whole)
    script.take_step(whole, tokenizer, rules, progress, seed=1, rate_frac=0.5)
    script.save_state(tmp_path / "state.pt", whole, rules, progress)
    script.take_step(whole, tokenizer, rules, progress, seed=1, rate_frac=0.5)
    resumed = shape.fresh_model(VOCAB, 2)
    new_rules = script.optimizers(resumed)
    new_progress = script.restored(tmp_path / "state.pt", resumed, new_rules)
    script.take_step(resumed, tokenizer, new_rules, new_progress, seed=1, rate_frac=0.5)
    assert new_progress == progress
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other)
