"""The published decoder-only shapes: their config.json, and the tensors of their checkpoints.

Sizes are those of the configs on the models' own pages; the special ids are the stand-in tokenizer's. Weights are
stored in the checkpoint's own dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.models.checkpoint.kind import kind_of
from engines.models.random_weights.decoder_tensors import decoder_tensors
from engines.models.random_weights.decoder_tokenizer import BOS, EOS, PAD, write_bpe_tokenizer
from engines.models.random_weights.tensor import Tensor

_OLDER_THAN_TEMPLATES = ("gpt2", "opt", "bloom", "gptj", "gpt_neox", "phi")
_WITHOUT_BOS = ("gpt2", "bloom", "gptj", "gpt_neox", "phi", "qwen2", "qwen3")
_OTHERS_UNTIED = ("llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gptj", "gpt_neox")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """One architecture; `fields` are those of its config.json that decide sizes and arithmetic."""

    model_type: str
    architecture: str
    dtype: str
    fields: Mapping[str, Any]

    def config(self) -> dict[str, Any]:
        """config.json as the published checkpoint words it."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "tie_word_embeddings": self.model_type not in _OTHERS_UNTIED,
            **self.fields,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "torch_dtype": self.dtype,
        }

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the checkpoint, Hugging Face's names."""
        return decoder_tensors(kind_of(self.config(), Path(self.model_type)), self.config())

    @property
    def has_chat_template(self) -> bool:
        """Whether models of the family are published with one."""
        return self.model_type not in _OLDER_THAN_TEMPLATES

    def write_tokenizer(self, folder: Path) -> None:
        """Byte-level BPE over the whole vocabulary; a chat template for the families that have one."""
        write_bpe_tokenizer(
            folder,
            self.config()["vocab_size"],
            adds_bos=self.model_type not in _WITHOUT_BOS,
            has_chat_template=self.has_chat_template,
        )


def _gpt2(hidden: int, layers: int, heads: int) -> DecoderShape:
    return DecoderShape(
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        dtype="float32",
        fields={
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": hidden,
            "n_layer": layers,
            "n_head": heads,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
        },
    )


def _opt(hidden: int, layers: int, heads: int) -> DecoderShape:
    return DecoderShape(
        model_type="opt",
        architecture="OPTForCausalLM",
        dtype="float16",
        fields={
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "hidden_size": hidden,
            "word_embed_proj_dim": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "ffn_dim": 4 * hidden,
            "activation_function": "relu",
            "do_layer_norm_before": True,
        },
    )


def _bloom(hidden: int, layers: int, heads: int) -> DecoderShape:
    return DecoderShape(
        model_type="bloom",
        architecture="BloomForCausalLM",
        dtype="float16",
        fields={"vocab_size": 250880, "hidden_size": hidden, "n_layer": layers, "n_head": heads},
    )


def _neox(hidden: int, layers: int, heads: int, vocab: int) -> DecoderShape:
    return DecoderShape(
        model_type="gpt_neox",
        architecture="GPTNeoXForCausalLM",
        dtype="float16",
        fields={
            "vocab_size": vocab,
            "max_position_embeddings": 2048,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * hidden,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
            "use_parallel_residual": True,
            "hidden_act": "gelu",
        },
    )


def _grouped(
    model_type: str, architecture: str, sizes: tuple[int, int, int, int, int], vocab_size: int, **fields: Any
) -> DecoderShape:
    """Llama and what follows it; sizes are hidden, feed-forward, layers, heads, key-value heads."""
    hidden, wide, layers, heads, kv_heads = sizes
    return DecoderShape(
        model_type=model_type,
        architecture=architecture,
        dtype=fields.pop("dtype", "bfloat16"),
        fields={
            "vocab_size": vocab_size,
            "hidden_size": hidden,
            "intermediate_size": wide,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            **fields,
        },
    )


def _llama(*sizes: int, vocab: int, positions: int, theta: float, **fields: Any) -> DecoderShape:
    hidden, wide, layers, heads, kv_heads = sizes
    of = {"max_position_embeddings": positions, "rope_theta": theta, **fields}
    return _grouped("llama", "LlamaForCausalLM", (hidden, wide, layers, heads, kv_heads), vocab, **of)


def _llama3(*sizes: int, factor: float, is_tied: bool, **fields: Any) -> DecoderShape:
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    tied = {"tie_word_embeddings": is_tied, "rope_scaling": scaling, **fields}
    return _llama(*sizes, vocab=128256, positions=131072, theta=500000.0, **tied)


def _qwen(generation: str, *sizes: int, vocab: int = 151936, is_tied: bool = True, **fields: Any) -> DecoderShape:
    hidden, wide, layers, heads, kv_heads = sizes
    architecture = f"{generation.capitalize()}ForCausalLM"
    of = {"rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": is_tied, **fields}
    return _grouped(generation, architecture, (hidden, wide, layers, heads, kv_heads), vocab, **of)


def _mistral(vocab: int, **fields: Any) -> DecoderShape:
    of = {"max_position_embeddings": 32768, **fields}
    return _grouped("mistral", "MistralForCausalLM", (4096, 14336, 32, 32, 8), vocab, **of)


_GEMMA: Mapping[str, Any] = {
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
}

DECODER_SHAPES: Mapping[str, DecoderShape] = {
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "opt-125m": _opt(768, 12, 12),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "bloom-560m": _bloom(1024, 24, 16),
    "bloom-7b1": _bloom(4096, 30, 32),
    "gpt-j-6b": DecoderShape(
        model_type="gptj",
        architecture="GPTJForCausalLM",
        dtype="float32",
        fields={
            "vocab_size": 50400,
            "n_positions": 2048,
            "n_embd": 4096,
            "n_layer": 28,
            "n_head": 16,
            "rotary_dim": 64,
            "n_inner": None,
            "activation_function": "gelu_new",
        },
    ),
    "gpt-neox-20b": _neox(6144, 44, 64, 50432),
    "pythia-160m": _neox(768, 12, 12, 50304),
    "smollm2-135m": _llama(576, 1536, 30, 9, 3, vocab=49152, positions=8192, theta=100000.0, tie_word_embeddings=True),
    "smollm2-360m": _llama(960, 2560, 32, 15, 5, vocab=49152, positions=8192, theta=100000.0, tie_word_embeddings=True),
    "llama-2-7b": _llama(4096, 11008, 32, 32, 32, vocab=32000, positions=4096, theta=10000.0, dtype="float16"),
    "llama-3.1-8b": _llama3(4096, 14336, 32, 32, 8, factor=8.0, is_tied=False),
    "llama-3.2-1b": _llama3(2048, 8192, 16, 32, 8, factor=32.0, is_tied=True, head_dim=64),
    "llama-3.2-3b": _llama3(3072, 8192, 28, 24, 8, factor=32.0, is_tied=True, head_dim=128),
    "mistral-7b": _mistral(32768, rope_theta=1000000.0, sliding_window=None),
    "mistral-7b-v0.1": _mistral(32000, rope_theta=10000.0, sliding_window=4096),
    "qwen2.5-0.5b": _qwen("qwen2", 896, 4864, 24, 14, 2, max_position_embeddings=32768),
    "qwen2.5-1.5b": _qwen("qwen2", 1536, 8960, 28, 12, 2, max_position_embeddings=131072),
    "qwen2.5-7b": _qwen("qwen2", 3584, 18944, 28, 28, 4, vocab=152064, is_tied=False, max_position_embeddings=131072),
    "qwen3-0.6b": _qwen("qwen3", 1024, 3072, 28, 16, 8, head_dim=128, max_position_embeddings=40960),
    "qwen3-8b": _qwen("qwen3", 4096, 12288, 36, 32, 8, is_tied=False, head_dim=128, max_position_embeddings=40960),
    "phi-2": DecoderShape(
        model_type="phi",
        architecture="PhiForCausalLM",
        dtype="float16",
        fields={
            "vocab_size": 51200,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "partial_rotary_factor": 0.4,
            "rope_theta": 10000.0,
            "hidden_act": "gelu_new",
        },
    ),
    "phi-3-mini": _grouped(
        "phi3",
        "Phi3ForCausalLM",
        (3072, 8192, 32, 32, 32),
        32064,
        max_position_embeddings=4096,
        original_max_position_embeddings=4096,
        rope_theta=10000.0,
        sliding_window=2047,
    ),
    "gemma-2b": _grouped("gemma", "GemmaForCausalLM", (2048, 16384, 18, 8, 1), 256000, **_GEMMA),
    "gemma-2-2b": _grouped(
        "gemma2",
        "Gemma2ForCausalLM",
        (2304, 9216, 26, 8, 4),
        256000,
        **_GEMMA,
        sliding_window=4096,
        query_pre_attn_scalar=256,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
    ),
    "gemma-3-1b": _grouped(
        "gemma3_text",
        "Gemma3ForCausalLM",
        (1152, 6912, 26, 4, 1),
        262144,
        **{**_GEMMA, "max_position_embeddings": 32768, "rope_theta": 1000000.0},
        rope_local_base_freq=10000.0,
        sliding_window=512,
        query_pre_attn_scalar=256,
    ),
}
"""Published shapes whose parameter counts the tests compare with the published ones."""
