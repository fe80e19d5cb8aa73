"""Published decoder-only shapes: their parameter counts, and what Hugging Face makes of their configs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines.models.checkpoint.kind import kind_of
from engines.models.folder import check_model_folder
from engines.models.random_weights.decoder_shapes import DECODER_SHAPES, DecoderShape
from engines.models.random_weights.folders import write_random_model
from engines.models.tokenizer import Tokenizer

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "opt-125m": 125_239_296,
    "bloom-560m": 559_214_592,
    "bloom-7b1": 7_069_016_064,
    "gpt-j-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_248_023_552,
    "mistral-7b-v0.1": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "gemma-2b": 2_506_172_416,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-1b": 999_885_952,
}
"""Parameter counts that the models' own pages state."""
ONE_OF_EACH = tuple({shape.model_type: name for name, shape in reversed(DECODER_SHAPES.items())}.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    assert sum(tensor.size for tensor in DECODER_SHAPES[name].tensors()) == PUBLISHED[name]


@pytest.mark.parametrize("name", DECODER_SHAPES)
def test_every_config_is_of_a_kind(name: str) -> None:
    shape = DECODER_SHAPES[name]

    kind = kind_of(shape.config(), Path(name))

    assert kind.is_decoder
    assert (kind.sliding_window is not None) == (name in ("mistral-7b-v0.1", "phi-3-mini", "gemma-2-2b", "gemma-3-1b"))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_tensor_is_one_hugging_face_expects(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = _small(DECODER_SHAPES[name]).config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))

    expected = {each: tuple(value.shape) for each, value in model.named_parameters()}

    written = {tensor.name: tensor.shape for tensor in _small(DECODER_SHAPES[name]).tensors()}
    # Hugging Face renames the published head of GPT-NeoX while it loads.
    assert {each.replace("embed_out.", "lm_head."): shape for each, shape in written.items()} == expected


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["gpt2", "smollm2-135m", "mistral-7b", "gpt-neox-20b"])
def test_a_folder_loads_and_its_greedy_answers_vary(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    write_random_model(tmp_path, _small(DECODER_SHAPES[name]), 0)
    check_model_folder(tmp_path)
    ids = Tokenizer.load(tmp_path).encode("spell: forty two")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)

    answer = model.generate(torch.tensor([ids]), max_new_tokens=30, min_new_tokens=30, do_sample=False)[0]

    assert len(set(answer[len(ids) :].tolist())) > 8


def _small(shape: DecoderShape) -> DecoderShape:
    """Two layers of 64 wide, with 300 words: the same family, made in no time."""
    fields = dict(shape.fields)
    for name, size in _SMALL.items():
        if name in fields:
            fields[name] = size
    return replace(shape, fields=fields)


_SMALL = {
    "vocab_size": 512, "n_layer": 2, "num_hidden_layers": 2, "hidden_size": 64, "n_embd": 64, "word_embed_proj_dim": 64,
    "n_head": 4, "num_attention_heads": 4, "intermediate_size": 96, "ffn_dim": 96, "head_dim": 32, "rotary_dim": 8,
    "num_key_value_heads": 2,
}  # fmt: skip
