"""The layouts: every way in which public T5 folders differ, made here with tiny random weights.

Each row says what its folder means (a `Truth`) or which sentence refuses it. `python -m tests.engines.zoo.layouts
FOLDER` writes all of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from tests.engines.zoo.reference import Truth

Tensors = dict[str, NDArray[np.float32]]

VOCAB, E, F, H, D = 120, 32, 40, 3, 8
CONFIG: Mapping[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_model": E,
    "d_kv": D,
    "d_ff": F,
    "num_heads": H,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "vocab_size": VOCAB,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "is_encoder_decoder": True,
    "tie_word_embeddings": False,
    "use_cache": True,
}
DROP = object()
"""The value of a config field that the folder does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the random weights look like."""

    vocab: int = VOCAB
    encoder: int = 2
    decoder: int = 2
    is_gated: bool = True
    has_head: bool = True
    has_layer_bias: bool = False
    buckets: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One row. `stored` turns the plain tensors into what the files hold; `beside` are more files, name -> JSON or
    bytes. `refused` is the pattern of the sentence of every engine, `refused_by` those of some."""

    shape: Shape = Shape()
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] | None = None
    stored: Callable[[Tensors], Tensors] = dict
    form: str = "safetensors"
    dtype: Any = torch.float32
    shards: int = 1
    beside: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "gelu_new"
    scales: bool = False
    eos: tuple[int, ...] = (1,)
    start: int = 0
    max_distance: int = 128
    refused: str = ""
    refused_by: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    has_tokenizer: bool = True

    def tensors(self) -> Tensors:
        """The plain tensors, rounded to the stored dtype."""
        found = random_tensors(self.shape)
        return {name: torch.from_numpy(value).to(self.dtype).float().numpy() for name, value in found.items()}

    def truth(self) -> Truth:
        return Truth(
            tensors=self.tensors(),
            heads=H,
            activation=self.activation,
            scales=self.scales,
            eos=self.eos,
            start=self.start,
            buckets=self.shape.buckets,
            max_distance=self.max_distance,
        )


def random_tensors(shape: Shape) -> Tensors:
    """Weights with which answers differ from prompt to prompt (initialisation as trained repeats one token)."""
    rng = np.random.default_rng(7)

    def drawn(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    def norm() -> NDArray[np.float32]:
        return (1 + 0.3 * rng.standard_normal(E)).astype(np.float32)

    found = {"shared.weight": drawn(shape.vocab, E, 0.5 if shape.has_head else 0.9)}
    if shape.has_head:
        found["lm_head.weight"] = drawn(shape.vocab, E, 0.5)
    for stack, layers in (("encoder", shape.encoder), ("decoder", shape.decoder)):
        for layer in range(layers):
            block = f"{stack}.block.{layer}.layer"
            names = ("SelfAttention",) if stack == "encoder" else ("SelfAttention", "EncDecAttention")
            for number, name in enumerate(names):
                for part in "qkv":
                    scale = 0.5 if part in "qk" else 2.0
                    found[f"{block}.{number}.{name}.{part}.weight"] = drawn(H * D, E, scale / E**0.5)
                found[f"{block}.{number}.{name}.o.weight"] = drawn(E, H * D, 2.0 / (H * D) ** 0.5)
                found[f"{block}.{number}.layer_norm.weight"] = norm()
            if layer == 0 or shape.has_layer_bias:
                name = f"{block}.0.SelfAttention.relative_attention_bias.weight"
                found[name] = drawn(shape.buckets, H, 1.0)
            last = f"{block}.{len(names)}"
            for name in ("wi_0", "wi_1") if shape.is_gated else ("wi",):
                found[f"{last}.DenseReluDense.{name}.weight"] = drawn(F, E, 2.0 / E**0.5)
            found[f"{last}.DenseReluDense.wo.weight"] = drawn(E, F, 1.5 / F**0.5)
            found[f"{last}.layer_norm.weight"] = norm()
        found[f"{stack}.final_layer_norm.weight"] = norm()
    return found


def renamed(name: str, *others: str) -> Callable[[Tensors], Tensors]:
    """The tensors with `name` stored as `others` instead."""
    return lambda tensors: {key: value for old, value in tensors.items() for key in (others if old == name else (old,))}


def with_copies(tensors: Tensors) -> Tensors:
    """Every alias stored too, and the tensor that early T5 files carry for nothing."""
    return {
        **tensors,
        "encoder.embed_tokens.weight": tensors["shared.weight"],
        "decoder.embed_tokens.weight": tensors["shared.weight"],
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.ones((32, H), dtype=np.float32),
    }


def only(prefixes: tuple[str, ...]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if name.startswith(prefixes)}


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


V1 = {"feed_forward_proj": "relu", "tie_word_embeddings": DROP}
V1_SHAPE = Shape(is_gated=False, has_head=False)
LORA = {"peft_type": "LORA", "base_model_name_or_path": "google/flan-t5-base", "r": 8, "lora_alpha": 16}

LAYOUTS: Mapping[str, Layout] = {
    "flan-t5": Layout(),
    "t5-v1.0": Layout(shape=V1_SHAPE, config=V1, activation="relu", scales=True),
    "t5-v1.0, first files": Layout(
        shape=V1_SHAPE,
        config={**V1, "num_decoder_layers": DROP, "relative_attention_max_distance": DROP, "n_positions": 512,
                "output_past": True, "decoder_start_token_id": DROP,
                "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}}},
        stored=lambda tensors: {**with_copies(tensors), "lm_head.weight": tensors["shared.weight"]},
        form="bin", activation="relu", scales=True,
    ),
    "t5-v1.0, config of before feed_forward_proj": Layout(
        shape=V1_SHAPE, config={"feed_forward_proj": DROP, "tie_word_embeddings": DROP, "layer_norm_epsilon": DROP},
        activation="relu", scales=True,
    ),
    "t5-v1.0, one name kept by safetensors": Layout(
        shape=V1_SHAPE, config=V1, stored=renamed("shared.weight", "decoder.embed_tokens.weight"), activation="relu",
        scales=True,
    ),
    "t5-v1.0, only the head kept": Layout(
        shape=V1_SHAPE, config=V1, stored=renamed("shared.weight", "lm_head.weight"), refused="shared.weight",
    ),
    "t5-v1.1 in bf16": Layout(dtype=torch.bfloat16),
    "flan-t5 in fp16 shards": Layout(dtype=torch.float16, shards=3),
    "flan-t5, all aliases": Layout(stored=with_copies),
    "flan-t5, early config": Layout(
        config={"feed_forward_proj": "gated-gelu", "is_gated_act": True, "dense_act_fn": "gelu_new"}
    ),
    "flan-t5, early config without feed_forward_proj": Layout(
        config={"feed_forward_proj": DROP, "is_gated_act": True, "dense_act_fn": "gelu_new"}
    ),
    "act by dense_act_fn alone": Layout(
        config={"feed_forward_proj": "gated-gelu", "dense_act_fn": "silu"}, activation="silu"
    ),
    "saved by transformers 5": Layout(config={"tie_word_embeddings": True, "scale_decoder_outputs": False}),
    "ul2": Layout(config={"feed_forward_proj": "gated-silu"}, activation="silu"),
    "gated swish": Layout(config={"feed_forward_proj": "gated-swish"}, activation="silu"),
    "plain gelu": Layout(
        shape=Shape(is_gated=False), config={"feed_forward_proj": "gelu"}, activation="gelu"
    ),
    "madlad": Layout(
        config={"pad_token_id": 1, "eos_token_id": 2}, stored=renamed("shared.weight", "decoder.embed_tokens.weight"),
        eos=(2,),
    ),
    "madlad, encoder's name": Layout(stored=renamed("shared.weight", "encoder.embed_tokens.weight")),
    "mt5": Layout(config={"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"]}),
    "mt5 without feed_forward_proj": Layout(config={"model_type": "mt5", "feed_forward_proj": DROP}),
    "umt5": Layout(shape=Shape(has_layer_bias=True), config={"model_type": "umt5"}),
    "byt5": Layout(
        shape=Shape(vocab=384, encoder=3, decoder=1), has_tokenizer=False,
        config={"num_layers": 3, "num_decoder_layers": 1, "vocab_size": 384},
        beside={"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}},
    ),
    "other buckets": Layout(
        shape=Shape(buckets=16),
        config={"relative_attention_num_buckets": 16, "relative_attention_max_distance": 20}, max_distance=20,
    ),
    "resized embeddings": Layout(shape=Shape(vocab=131), config={"vocab_size": 131}),
    "resized embeddings, stale config": Layout(shape=Shape(vocab=123), refused="vocab_size"),
    "start id of its own": Layout(config={"decoder_start_token_id": 5}, start=5),
    "ends in generation_config.json": Layout(
        generation={"eos_token_id": [1, 17, 4], "decoder_start_token_id": 0, "pad_token_id": 0}, eos=(1, 17, 4)
    ),
    "nine ends": Layout(
        config={"eos_token_id": [1, *range(20, 28)]}, eos=(1, *range(20, 28)), refused_by={"t5": "1 to 8"}
    ),
    "ends beyond the vocabulary": Layout(config={"eos_token_id": [1, 500, 600]}),
    "null ids": Layout(config={"decoder_start_token_id": None, "eos_token_id": None}),
    "bin": Layout(form="bin"),
    "bin in shards": Layout(form="bin", shards=2, dtype=torch.bfloat16),
    "bin of before torch 1.6": Layout(form="old bin"),
    "stale index beside a whole file": Layout(
        beside={"model.safetensors.index.json": {"weight_map": {"shared.weight": "model-00001-of-00001.safetensors"}}}
    ),
    "adapter beside its base": Layout(
        beside={"adapter_config.json": LORA, "adapter_model.safetensors": b"\2" + bytes(7) + b"{}"}, note="adapter"
    ),
    "adapter alone": Layout(
        stored=lambda tensors: {}, config=dict.fromkeys(CONFIG, DROP), refused="adapter of google/flan-t5-base.*merge",
        beside={"adapter_config.json": LORA, "adapter_model.safetensors": b"\2" + bytes(7) + b"{}"},
    ),
    "adapter with the base's config": Layout(
        stored=lambda tensors: {}, refused="adapter of google/flan-t5-base.*merge",
        beside={"adapter_config.json": LORA, "adapter_model.bin": bytes(2000)},
    ),
    "encoder only": Layout(
        config={"architectures": ["T5EncoderModel"]}, stored=only(("shared", "encoder")), refused="encoder only"
    ),
    "encoder only, bin": Layout(
        config={"architectures": ["T5EncoderModel"]}, stored=only(("shared", "encoder")), form="bin",
        refused="encoder only",
    ),
    "classifier": Layout(
        config={"architectures": ["T5ForSequenceClassification"]}, stored=prefixed("transformer."),
        refused="T5ForSequenceClassification",
    ),
    "head lost": Layout(stored=without("lm_head.weight"), refused="lm_head"),
    "head lost, bin": Layout(stored=without("lm_head.weight"), form="bin", refused="lm_head"),
    "saved under DataParallel": Layout(stored=prefixed("module."), form="bin", refused="shared.weight|lack 54"),
    "quantized by bitsandbytes": Layout(
        config={"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        refused="quantized.*bitsandbytes",
    ),
    "weights of TensorFlow": Layout(
        stored=lambda tensors: {}, beside={"tf_model.h5": bytes(2000)}, refused=r"tf_model\.h5"
    ),
    "variant fp16": Layout(
        stored=lambda tensors: {}, beside={"model.fp16.safetensors": b"\2" + bytes(7) + b"{}"},
        refused=r"model\.fp16\.safetensors",
    ),
    "long-t5": Layout(config={"model_type": "longt5"}, refused="longt5"),
}  # fmt: skip


def write(layout: Layout, folder: Path) -> Path:
    """The folder of one layout."""
    folder.mkdir(parents=True)
    config = {name: value for name, value in {**CONFIG, **layout.config}.items() if value is not DROP}
    if config:
        _json(folder / "config.json", config)
    if layout.generation is not None:
        _json(folder / "generation_config.json", layout.generation)
    if layout.has_tokenizer:
        _tokenizer(folder, layout.shape.vocab)
    for name, content in layout.beside.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            _json(folder / name, content)
    stored = layout.stored(layout.tensors())
    tensors = {name: torch.from_numpy(value).to(layout.dtype).clone() for name, value in stored.items()}
    if tensors:
        _weights(folder, layout, tensors)
    return folder


def _weights(folder: Path, layout: Layout, tensors: dict[str, Any]) -> None:
    is_safe = layout.form == "safetensors"
    stem, ending = ("model", "safetensors") if is_safe else ("pytorch_model", "bin")
    names, index = sorted(tensors), {}
    for number in range(layout.shards):
        part = {name: tensors[name] for name in names[number :: layout.shards]}
        count = f"-{number + 1:05d}-of-{layout.shards:05d}" if layout.shards > 1 else ""
        file = folder / f"{stem}{count}.{ending}"
        index |= dict.fromkeys(part, file.name)
        if is_safe:
            save_file(part, file, metadata={"format": "pt"})
        else:
            torch.save(part, file, _use_new_zipfile_serialization=layout.form == "bin")
    if layout.shards > 1:
        _json(folder / f"{stem}.{ending}.index.json", {"metadata": {}, "weight_map": index})


def _json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _tokenizer(folder: Path, vocab: int) -> None:
    """Whole words w3, w4, ...; pad, end and unknown in T5's places."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{number}": number for number in range(3, vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    for number, layout in enumerate(LAYOUTS.values()):
        write(layout, Path(sys.argv[1]) / str(number))
