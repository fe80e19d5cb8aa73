"""Our beam search ends as Hugging Face's does, by each of its rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from engines.api import GenerateParams, GenerateRequest
from engines.generation.beam_search import BeamSearches
from engines.generation.torch_model import generation_config, until_eos
from engines.models.checkpoint.special_ids import SpecialIds

pytestmark = pytest.mark.heavy

SPECIAL = SpecialIds(eos=(1,), pad=0, start=0)
PROMPT = (5, 9, 7, 1)
BOOST = 4.0
"""Added to the score of the end token, so that hypotheses end at every length."""


def model(seed: int) -> T5ForConditionalGeneration:
    """A tiny model whose answers end at very different lengths."""
    torch.manual_seed(seed)
    config = T5Config(vocab_size=12, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    made = T5ForConditionalGeneration(config).eval()
    forward = made.forward

    def likely_to_end(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits[..., SPECIAL.eos[0]] += BOOST
        return output

    made.forward = likely_to_end
    return made


def ours(served: T5ForConditionalGeneration, params: GenerateParams) -> list[int]:
    searches = BeamSearches([GenerateRequest(input_ids=PROMPT, params=params)], SPECIAL)
    ids = searches.next_ids
    while True:
        with torch.no_grad():
            asked = torch.tensor([PROMPT] * len(ids))
            logits = served(input_ids=asked, decoder_input_ids=torch.from_numpy(ids)).logits[:, -1].numpy()
        events = searches.step(logits)
        if searches.is_done:
            return [int(event.token_id or 0) for event in events]
        ids = np.concatenate([ids[searches.sources], searches.next_ids], axis=1)


@pytest.mark.parametrize("length_penalty", [1.0, 2.0, 0.0])
def test_every_rule_of_early_stopping_is_hugging_face_s(length_penalty: float) -> None:
    answers: dict[object, list[list[int]]] = {False: [], True: [], "never": []}
    for seed in range(12):
        served = model(seed)
        for rule, found in answers.items():
            params = GenerateParams(
                max_new_tokens=12,
                num_beams=3,
                length_penalty=length_penalty,
                early_stopping=rule,  # type: ignore[arg-type]
            )
            found.append(ours(served, params))
            expected = served.generate(torch.tensor([PROMPT]), generation_config=generation_config(params, SPECIAL))
            assert found[-1] == until_eos(expected[0][1:].numpy(), SPECIAL.eos, 12), (seed, rule)
    if length_penalty == 2.0:
        assert answers[True] != answers[False], "no answer here depends on the rule"
        assert answers["never"] != answers[False]
