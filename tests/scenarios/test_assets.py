"""The bundled prompts and model: data that can be made again, a clean split, right references, a model that answers."""

# ruff: noqa: SIM905 - a word list is easier to read and to extend as text

import datetime
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

ASSETS = Path(__file__).parents[2] / "scenarios" / "assets"
MODEL = ASSETS / "flan-t5-bench"
TASKS = ("label", "date", "spell", "rewrite")
UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in (ASSETS / "prompts" / "tasks.jsonl").read_text().splitlines()]


def number_of(words: str) -> int:
    """The number that English words name; written apart from the generator, by accumulation instead of division."""
    total = group = 0
    for word in words.replace("-", " ").split():
        if word in TENS:
            group += TENS[word]
        elif word == "hundred":
            group *= 100
        elif word in ("thousand", "million"):
            total, group = total + group * {"thousand": 1_000, "million": 1_000_000}[word], 0
        else:
            group += UNITS.index(word)
    return total + group


def iso_of(text: str) -> str:
    """The ISO form of a written date; written apart from the generator, by looking for the parts."""
    if "/" in text:
        month, day, year = (int(part) for part in text.split("/"))
    elif "." in text:
        day, month, year = (int(part) for part in text.split("."))
    else:
        month = next(1 + MONTHS.index(name[:3]) for name in re.findall("[A-Z][a-z]+", text) if name[:3] in MONTHS)
        day, year = (int(number) for number in re.findall(r"\d+", text))
        if year < 100:
            year += 2000 if year < 50 else 1900
    return datetime.date(year, month, day).isoformat()


def test_prompts_interleave_the_four_tasks() -> None:
    drawn = rows()
    assert Counter(row["task"] for row in drawn) == dict.fromkeys(TASKS, 100)
    assert all(tuple(row["task"] for row in drawn[i : i + 4]) == TASKS for i in range(0, 400, 4))
    assert len({row["id"] for row in drawn}) == len({row["prompt"] for row in drawn}) == 400
    assert all(list(row) == ["id", "task", "prompt", "reference"] for row in drawn)


def test_prompts_file_is_what_the_generator_writes(training_script) -> None:
    assert list(training_script("tasks").benchmark_rows()) == rows()


def test_every_benchmark_prompt_is_held_out(training_script) -> None:
    is_held_out = training_script("tasks").is_held_out
    assert all(is_held_out(row["prompt"]) for row in rows())


@pytest.mark.parametrize("task", TASKS)
def test_training_never_draws_a_held_out_prompt(training_script, task: str) -> None:
    tasks = training_script("tasks")
    pairs = tasks.training_pairs(task, random.Random(5))
    drawn = [next(pairs)[0] for _ in range(2000)]
    assert not any(tasks.is_held_out(prompt) for prompt in drawn)
    assert not set(drawn) & {row["prompt"] for row in rows()}


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_gives_the_same_pairs(training_script, task: str) -> None:
    tasks = training_script("tasks")
    assert tasks.held_out_pairs(task, 20, seed=3) == tasks.held_out_pairs(task, 20, seed=3)
    assert tasks.held_out_pairs(task, 20, seed=3) != tasks.held_out_pairs(task, 20, seed=4)


def test_spelled_numbers_read_back(training_script) -> None:
    for prompt, reference in training_script("tasks").held_out_pairs("spell", 500, seed=11):
        assert number_of(reference) == int(prompt.removeprefix("spell: ").replace(",", ""))


def test_dates_read_back(training_script) -> None:
    for prompt, reference in training_script("tasks").held_out_pairs("date", 500, seed=11):
        assert iso_of(prompt.removeprefix("date: ")) == reference


def test_labels_turn_with_every_negation(training_script) -> None:
    label_task = training_script("label_task")
    polarity = dict.fromkeys(label_task.GOOD, 1) | dict.fromkeys(label_task.BAD, -1)
    for prompt, reference in training_script("tasks").held_out_pairs("label", 500, seed=11):
        text = prompt.removeprefix("label: ").rstrip(".")
        clauses = re.split(r", but |, although |, ", text.removeprefix("although "))
        judged = clauses[0] if ", although " in text else clauses[-1]
        found = [polarity[word] for word in judged.split() if word in polarity]
        turns = len(re.findall(r"\bis not true that|do not agree|nobody|doubt", judged))
        turns += len(re.findall(r"\b(?:was|is) (?:not|never) (?!true that)", judged))
        assert reference == label_task.LABELS[(found[-1] if found else 0) * (-1) ** turns]


def test_rewritings_are_formal_and_keep_every_name_and_thing(training_script) -> None:
    rewrite_task = training_script("rewrite_task")
    kept = {name for slot in ("friend", "place", "thing", "quality") for name in rewrite_task.SLOTS[slot]}
    kept |= set(rewrite_task.SURNAMES)
    for prompt, reference in training_script("tasks").held_out_pairs("rewrite", 200, seed=11):
        before, after = re.findall(r"[A-Za-z]+", prompt.removeprefix("rewrite: ")), re.findall(r"[A-Za-z]+", reference)
        assert [word for word in before if word in kept] == [word for word in after if word in kept]
        assert not re.search(r"'|\b(?:I|my|My|me|w|approx|dept|appt|info|min|hrs|km|Dr|Mon)\b", reference)


def test_tokenizer_gives_every_prompt_and_reference_back() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for text in [row[side] for row in rows() for side in ("prompt", "reference")] + ["Zq7~ unseen, odd words!"]:
        ids = tokenizer.encode(text).ids
        assert ids[-1] == 1
        assert 2 not in ids
        assert tokenizer.decode(ids) == text


def test_tokenizer_is_what_its_builder_makes(training_script) -> None:
    pytest.importorskip("tokenizers")
    assert training_script("vocabulary").build().to_str() == json.dumps(
        json.loads((MODEL / "tokenizer.json").read_text()), ensure_ascii=False, separators=(",", ":")
    )


def test_weights_are_small_fp32_and_untied() -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = MODEL / "model.safetensors"
    tensors = safetensors.load_file(path)
    assert path.stat().st_size < 24e6
    assert 3e6 < sum(tensor.size for tensor in tensors.values()) < 6e6
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    assert tensors["lm_head.weight"].shape == tensors["shared.weight"].shape
    assert abs(tensors["lm_head.weight"] - tensors["shared.weight"]).max() > 0.1
    config = json.loads((MODEL / "config.json").read_text())
    assert config["vocab_size"] % 8 == 0
    assert config["tie_word_embeddings"] is config["scale_decoder_outputs"] is False


@pytest.mark.filterwarnings("default")
@pytest.mark.heavy
def test_bundled_model_answers_98_percent_exactly(training_script) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    evaluate = training_script("evaluate")
    model = training_script("shape").load_model(MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    drawn = rows()[:160]
    answers = evaluate.answers(model, tokenizer, [row["prompt"] for row in drawn])
    hits = Counter(row["task"] for row, answer in zip(drawn, answers, strict=True) if answer == row["reference"])
    assert all(hits[task] >= 39 for task in TASKS), hits  # 39 of 40: one miss is what 98 % allows at this n
