"""Which answers are scored under the reference, by which tokens, and when there is no score."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from engines.errors import ModelInvalid
from engines.models.chat_template import ChatTemplate
from engines.models.tokenizer import Tokenizer
from harness.records import Prompt
from harness.scenario.resolve import BUNDLED_DECODER
from harness.scenario.schema import Scenario
from harness.trial.answer_scores import AnswerScorer
from harness.trial.ask_prompts import Answers
from harness.trial.inputs import TrialInputs
from harness.trial.progress import Lines
from harness.trial.reference import Reference

Ids = tuple[int, ...]
TEXTS = {"a": "forty two", "b": "2001-02-03", "c": "seven"}
Rows = list[tuple[list[int], list[int]]]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """What the child was asked to score; it finds that every token is worth its own number of answer tokens."""
    asked: Rows = []

    def call(module: str, function: str, arguments: list[str], python: str | None) -> None:
        wanted = json.loads(Path(arguments[2]).read_text())
        asked.extend((prompt, answer) for prompt, answer in wanted["rows"])
        Path(arguments[3]).write_text(json.dumps([len(answer) / 10 for _, answer in wanted["rows"]]))

    monkeypatch.setattr("harness.trial.answer_scores.call_in_child", call)
    return asked


def _scorer(token_ids: Mapping[str, Ids] | None = None, rendered: str | None = None) -> AnswerScorer:
    """Judges by the bundled decoder's tokenizer; the reference wrote TEXTS."""
    scenario = Scenario.model_validate({"name": "s", "model": {"bundled": "decoder"}, "space": [{"engine": "vllm"}]})
    prompts = tuple(
        Prompt(prompt_id=each, task="t", text=f"spell: {each}\n", reference=None, rendered=rendered) for each in TEXTS
    )
    inputs = TrialInputs(scenario=scenario, model_dir=BUNDLED_DECODER, prompts=prompts)
    ids = {each: _ids(text) for each, text in TEXTS.items()} if token_ids is None else token_ids
    return AnswerScorer(
        inputs, Reference(answers=TEXTS, source="transformers fp32", token_ids=ids), Lines(lambda _: None)
    )


def _ids(text: str) -> Ids:
    return Tokenizer.load(BUNDLED_DECODER).encode_rendered(text)


def _asked(texts: Mapping[str, str], token_ids: Mapping[str, Ids] | None = None) -> Answers:
    return Answers(texts=texts, nonfinite=frozenset(), failures={}, token_ids=token_ids or {})


def test_equal_answers_lose_nothing_and_are_not_scored(rows: Rows) -> None:
    drops = _scorer().drops(_asked(TEXTS))

    assert dict(drops.nats) == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert rows == []


def test_differing_answers_are_scored_beside_the_references_once(rows: Rows) -> None:
    scorer, longer = _scorer(), _ids("forty two and more")
    drops = scorer.drops(_asked({**TEXTS, "a": "?"}, {"a": longer}))
    again = scorer.drops(_asked({**TEXTS, "a": "?"}, {"a": longer}))

    assert drops.nats["a"] == pytest.approx((len(longer) - len(_ids(TEXTS["a"]))) / 10)
    assert drops.nats["b"] == 0.0
    assert again.nats == drops.nats
    assert len(rows) == 2
    assert rows[0][0] == list(Tokenizer.load(BUNDLED_DECODER).encode("spell: a\n"))
    assert rows[0][1][: len(longer)] == list(longer)
    assert rows[0][1][-1] != longer[-1], "an answer shorter than it might be was ended by an end token"


def test_text_is_tokenized_again_where_the_references_text_gives_its_ids(rows: Rows) -> None:
    _scorer().drops(_asked({**TEXTS, "a": "forty three"}))

    assert rows[0][1][:-1] == list(_ids("forty three"))


def test_text_whose_tokens_are_not_known_is_left_out_or_refused(rows: Rows) -> None:
    odd = tuple(reversed(_ids(TEXTS["a"])))
    one = _scorer({**{each: _ids(text) for each, text in TEXTS.items()}, "a": odd})
    none = _scorer({each: tuple(reversed(_ids(text))) for each, text in TEXTS.items()})
    others = {each: f"{text}!" for each, text in TEXTS.items()}

    assert one.drops(_asked(others)).left_out == 1
    assert "for 1 of 3 prompts only" in none.drops(_asked(others)).unavailable


@pytest.mark.parametrize("error", [ModelInvalid("no head"), MemoryError("killed")])
def test_a_judge_that_fails_is_unavailable_with_its_words(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("harness.trial.answer_scores.call_in_child", fail)

    assert _scorer().drops(_asked({**TEXTS, "a": "no"})).unavailable == str(error)
    assert _scorer({}).drops(_asked(TEXTS)).unavailable == "the reference gave no token ids"


def test_a_chat_is_scored_behind_what_its_template_wrote(rows: Rows) -> None:
    rendered = ChatTemplate.load(BUNDLED_DECODER).render([{"role": "user", "content": "spell: a"}])
    drops = _scorer(rendered=rendered).drops(_asked({**TEXTS, "a": "forty"}))
    assert drops.nats["a"] != 0
    expected = list(Tokenizer.load(BUNDLED_DECODER).encode_rendered(rendered))
    assert [list(prompt) for prompt, _ in rows] == [expected, expected]
    assert expected.count(expected[0]) == 1  # one begin token, the template's
