"""Presets: the search spaces that an engine's users know, by name; a scenario's block takes one with `preset:`.

A preset is one block or several: where a value makes sense beside another only (a quantized cache of values needs flash
attention, a step of `n_ubatch` fits into one of `n_batch`), each side is a block. What the scenario's own block names
wins over the preset. No preset lets answers come from a prefix cache: that would flatter whoever has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Block = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What it searches, in a sentence, and its blocks, as a scenario writes them but without `engine`."""

    what: str
    blocks: tuple[Block, ...]


_ROLLING: Block = {"rolling_batch": "auto"}
_DTYPES = ["fp32", "bf16", "fp16"]


def _block(dtype: list[str] | None = None, **options: Any) -> Block:
    """A rolling batch with these options."""
    return {**_ROLLING, **({"dtype": dtype} if dtype else {}), "options": options}


_SLOTS = {"n_parallel": [1, 4, 16, 32]}
_LLAMACPP_STEPS = ({"n_batch": 512, "n_ubatch": [128, 512]}, {"n_batch": 2048, "n_ubatch": [128, 512, 2048]})
_LLAMACPP_CACHES = (
    {"flash_attn": ["off", "on"], "cache_type_k": ["f16", "q8_0"]},
    {"flash_attn": "on", "cache_type_k": "q8_0", "cache_type_v": ["q8_0", "q4_0"]},
)

_TURNS: Block = {"rolling_batch": "disable"}
_PAGES: tuple[dict[str, Any], ...] = (
    {"cb_block_size": 32, "cb_num_blocks": [128, 512]},
    {"cb_block_size": 128, "cb_num_blocks": [32, 128]},
)
"""Blocks of the cache of transformers serve: 4,096 or 16,384 tokens in both sizes."""


def _sglang(*, dtype: list[str] | str = "bf16", **options: Any) -> Block:
    """A rolling batch on a GPU, which SGLang needs."""
    return {**_ROLLING, "device": "cuda", "dtype": dtype, "options": options}


PRESETS: Mapping[str, Mapping[str, Preset]] = {
    "vllm": {
        "throughput": Preset(
            what="requests at once and tokens of one step, compiled and eager",
            blocks=(
                _block(
                    max_num_seqs=[32, 128, 256], max_num_batched_tokens=[2048, 8192], enforce_eager=[True, False]
                ),
            ),
        ),
        "latency": Preset(
            what="few requests at once, and prompts cut so that running answers wait little",
            blocks=(
                _block(max_num_seqs=[4, 16], max_num_batched_tokens=[256, 512, 2048], enforce_eager=[True, False]),
            ),
        ),
        "precision": Preset(
            what="types of weights and cache; the quality check decides",
            blocks=({**_block(dtype=_DTYPES)}, _block(dtype=["bf16"], kv_cache_dtype="fp8")),
        ),
        "all": Preset(
            what="all of it, prompts cut into pieces or whole",
            blocks=(
                _block(
                    dtype=_DTYPES, max_num_seqs=[8, 32, 128, 256], max_num_batched_tokens=[256, 512, 2048, 8192],
                    block_size=[32, 128], enforce_eager=[True, False],
                ),
                _block(
                    dtype=_DTYPES, max_num_seqs=[8, 32, 128, 256], enable_chunked_prefill=False, block_size=[32, 128],
                    enforce_eager=[True, False],
                ),
            ),
        ),
    },
    "llamacpp": {
        "throughput": Preset(
            what="slots, and tokens of prompts in one step",
            blocks=(_block(n_parallel=[4, 8, 16, 32], n_ubatch=[128, 512]),),
        ),
        "latency": Preset(
            what="few slots, flash attention, and how long threads wait awake",
            blocks=(_block(n_parallel=[1, 4], flash_attn=["off", "auto"], n_ubatch=[128, 512], poll=[0, 50]),),
        ),
        "precision": Preset(
            what="types of weights and cache; the quality check decides",
            blocks=(
                {**_ROLLING, "dtype": [*_DTYPES, "int8", "int4"]},
                *({**_block(**cache), "dtype": ["bf16", "int8"]} for cache in _LLAMACPP_CACHES),
            ),
        ),
        "all": Preset(
            what="all of it",
            blocks=tuple(
                _block(dtype=[*_DTYPES, "int8", "int4"], **_SLOTS, **steps, **cache)
                for steps in _LLAMACPP_STEPS for cache in _LLAMACPP_CACHES
            ),
        ),
    },
    "sglang": {
        "throughput": Preset(
            what="requests at once, pieces of prompts, memory for the cache, how boldly requests are let in",
            blocks=(
                _sglang(
                    max_rolling_batch_size=[64, 128, 256], chunked_prefill_size=[2048, 8192],
                    mem_fraction_static=[0.8, 0.9], schedule_conservativeness=[0.3, 1.0],
                ),
            ),
        ),
        "latency": Preset(
            what="few requests at once, short pieces of prompts; decoding compiled for so many requests",
            blocks=(
                _sglang(max_rolling_batch_size=[8, 32], chunked_prefill_size=[512, 2048]),
                *(
                    _sglang(max_rolling_batch_size=most, enable_torch_compile=True, torch_compile_max_bs=most)
                    for most in (8, 32)
                ),
            ),
        ),
        "precision": Preset(
            what="types of weights and cache; the quality check decides",
            blocks=(
                _sglang(dtype=["bf16", "fp16"]),
                _sglang(kv_cache_dtype=["fp8_e5m2", "fp8_e4m3"]),
            ),
        ),
        "all": Preset(
            what="all of it, prompts cut into pieces (which may share a step with answers) or whole",
            blocks=(
                _sglang(
                    dtype=["bf16", "fp16"], max_rolling_batch_size=[8, 32, 128, 256],
                    chunked_prefill_size=[512, 2048, 8192], enable_mixed_chunk=[False, True],
                    mem_fraction_static=[0.8, 0.9], schedule_conservativeness=[0.3, 1.0],
                ),
                _sglang(
                    dtype=["bf16", "fp16"], max_rolling_batch_size=[8, 32, 128, 256], chunked_prefill_size=-1,
                    mem_fraction_static=[0.8, 0.9], schedule_conservativeness=[0.3, 1.0],
                ),
            ),
        ),
    },
    "transformers_serve": {
        "throughput": Preset(
            what="its continuous batching: blocks of the cache, and tokens of one step",
            blocks=tuple(_block(**pages, cb_max_batch_tokens=[256, 1024]) for pages in _PAGES),
        ),
        "latency": Preset(
            what="one request after another: compiled or not, two kinds of attention",
            blocks=({**_TURNS, "options": {"compile": [False, True], "attn_implementation": ["sdpa", "eager"]}},),
        ),
        "precision": Preset(
            what="types of weights; the quality check decides",
            blocks=({**_TURNS, "dtype": _DTYPES}, {**_ROLLING, "dtype": _DTYPES, "options": _PAGES[0]}),
        ),
        "all": Preset(
            what="all of it",
            blocks=(
                *(_block(dtype=_DTYPES, **pages, cb_max_batch_tokens=[256, 1024]) for pages in _PAGES),
                {
                    **_TURNS, "dtype": _DTYPES,
                    "options": {"compile": [False, True], "attn_implementation": ["sdpa", "eager"]},
                },
            ),
        ),
    },
    "transformers": {
        "throughput": Preset(
            what="prompts computed together", blocks=({"batch_size": [1, 4, 16, 32]},)
        ),
        "precision": Preset(
            what="types of weights; the quality check decides", blocks=({"dtype": ["fp32", "bf16"], "batch_size": 8},)
        ),
    },
}  # fmt: skip
"""Engine -> name of a preset -> what it searches. Ranges are what the engine's users tune; a search samples them."""


def presets_of(engine: object) -> Mapping[str, Preset]:
    """The presets of an engine, none for one that has none."""
    return PRESETS.get(engine, {}) if isinstance(engine, str) else {}
