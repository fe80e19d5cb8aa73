"""CTranslate2's form of decoder-only models, described from the Hugging Face module itself.

CTranslate2's own loaders read what transformers 4 called things; under transformers 5 they take a default for a rotary
base, a partial rotation or an epsilon that they do not find, without an error. So the rotary families are described
here, and the others through its loaders. Windows are left out: CTranslate2 applies them to the answer and not to the
prompt, so that requests must stay within them (`ModelKind.bounds`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ctranslate2.converters import transformers as converters
from ctranslate2.converters import utils
from ctranslate2.specs import attention_spec, common_spec, transformer_spec

from engines.errors import ModelInvalid


class RotaryLoader(converters.ModelLoader):  # type: ignore[misc]
    """Llama, Mistral, Qwen 2 and 3, Phi, Phi-3, GPT-NeoX, Gemma and Gemma 3."""

    def get_model_spec(self, model: Any) -> Any:
        """The whole model."""
        config, stack = model.config, _stack(model)
        heads = int(config.num_attention_heads)
        first = stack.layers[0]
        is_gemma = config.model_type.startswith("gemma")
        ropes = [_rope(config, stack.rotary_emb, layer) for layer in range(len(stack.layers))]
        is_scaled = any(rope.factors is not None for rope in ropes)
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        spec = transformer_spec.TransformerDecoderModelSpec.from_config(
            len(stack.layers),
            heads,
            activation=_activation(config),
            pre_norm=True,
            ffn_glu=hasattr(first.mlp, "down_proj"),
            rms_norm=_is_rms(_final_norm(stack)),
            rotary_dim=ropes[0].dims,
            rotary_interleave=False,
            rotary_base=ropes[0].base,
            rotary_scaling_type=attention_spec.RotaryScalingType.Su if is_scaled else None,
            original_max_position_embeddings=1 if is_scaled else 0,  # no scale by CTranslate2's formula
            max_position_embeddings=1 if is_scaled else 0,
            num_heads_kv=None if kv_heads == heads else kv_heads,
            head_dim=_head_dim(config),
            parallel_residual=_is_parallel(config),
            shared_layer_norm=config.model_type == "phi",
            pre_post_layer_norm=hasattr(first, "pre_feedforward_layernorm"),
            qk_norm=hasattr(_attention(first), "q_norm"),
        )
        decoder = spec.decoder
        query_scale = float(getattr(config, "query_pre_attn_scalar", None) or _head_dim(config)) ** -0.5
        decoder.scale_embeddings = is_gemma
        if is_gemma:
            decoder.start_from_zero_embedding = False
            decoder.embeddings.multiply_by_sqrt_depth = config.hidden_size**0.5
        self.set_embeddings(decoder.embeddings, model.get_input_embeddings())
        self._norm(decoder.layer_norm, _final_norm(stack))
        self.set_linear(decoder.projection, model.get_output_embeddings())
        for layer_spec, layer, rope in zip(decoder.layer, stack.layers, ropes, strict=True):
            self._norms(layer_spec, layer, config)
            self._attend(layer_spec.self_attention, _attention(layer), config)
            self._feed(layer_spec.ffn, layer.mlp)
            rope.write(layer_spec.self_attention, query_scale, is_scaled=is_scaled)
        return spec

    def _norm(self, spec: Any, module: Any) -> None:
        spec.gamma = module.weight
        if getattr(module, "bias", None) is not None:
            spec.beta = module.bias
        if type(module).__name__.startswith("Gemma"):  # multiplies by 1 + weight
            spec.layer_norm_use_residual = True

    def _norms(self, spec: Any, layer: Any, config: Any) -> None:
        if hasattr(layer, "pre_feedforward_layernorm"):
            for name in ("input_", "post_attention_", "pre_feedforward_", "post_feedforward_"):
                self._norm(getattr(spec, f"{name}layer_norm"), getattr(layer, f"{name}layernorm"))
        elif config.model_type == "phi":
            self._norm(spec.shared_layer_norm, layer.input_layernorm)
        else:
            is_parallel = _is_parallel(config)
            self._norm(spec.input_layer_norm if is_parallel else spec.self_attention.layer_norm, layer.input_layernorm)
            second = spec.post_attention_layer_norm if is_parallel else spec.ffn.layer_norm
            self._norm(second, layer.post_attention_layernorm)

    def _attend(self, spec: Any, module: Any, config: Any) -> None:
        out = module.o_proj if hasattr(module, "o_proj") else module.dense
        if hasattr(module, "q_proj"):
            parts = [common_spec.LinearSpec() for _ in range(3)]
            for part, name in zip(parts, ("q_proj", "k_proj", "v_proj"), strict=True):
                self.set_linear(part, getattr(module, name))
            utils.fuse_linear(spec.linear[0], parts)
        elif hasattr(module, "qkv_proj"):
            self.set_linear(spec.linear[0], module.qkv_proj)
        else:
            _split_heads(spec.linear[0], module.query_key_value, int(config.num_attention_heads))
        self.set_linear(spec.linear[1], out)
        if hasattr(module, "q_norm"):
            self._norm(spec.q_norm, module.q_norm)
            self._norm(spec.k_norm, module.k_norm)

    def _feed(self, spec: Any, module: Any) -> None:
        if hasattr(module, "gate_up_proj"):
            spec.linear_0.weight, spec.linear_0_noact.weight = module.gate_up_proj.weight.chunk(2, dim=0)
            self.set_linear(spec.linear_1, module.down_proj)
        elif hasattr(module, "gate_proj"):
            self.set_linear(spec.linear_0, module.gate_proj)
            self.set_linear(spec.linear_0_noact, module.up_proj)
            self.set_linear(spec.linear_1, module.down_proj)
        elif hasattr(module, "fc1"):
            self.set_linear(spec.linear_0, module.fc1)
            self.set_linear(spec.linear_1, module.fc2)
        else:
            self.set_linear(spec.linear_0, module.dense_h_to_4h)
            self.set_linear(spec.linear_1, module.dense_4h_to_h)


class _Rope:
    """The rotary positions of one layer: `factors` divide the plain frequencies, None where they are plain; `scale`
    multiplies rotated queries and keys alike."""

    def __init__(self, base: float, frequencies: Any, scale: float) -> None:
        self.base, self.dims, self.scale = base, 2 * len(frequencies), scale
        factors = base ** -(np.arange(0, self.dims, 2, dtype=np.float64) / self.dims) / frequencies
        self.factors = None if np.allclose(factors, 1.0, rtol=1e-6) else factors.astype(np.float32)

    def write(self, spec: Any, query_scale: float, *, is_scaled: bool) -> None:
        """Every scaling that is fixed, as the factors of CTranslate2's 'Su' and as a scale of the queries."""
        spec.rotary_base = np.dtype("float32").type(self.base)
        spec.queries_scale = np.dtype("float32").type(query_scale * self.scale**2)
        if is_scaled:
            factors = np.ones(self.dims // 2, dtype=np.float32) if self.factors is None else self.factors
            spec.rotary_scaling_long_factor = spec.rotary_scaling_short_factor = factors


def _rope(config: Any, module: Any, layer: int) -> _Rope:
    kinds = getattr(config, "layer_types", None)
    given: Mapping[str, Any] = config.rope_parameters
    prefix = ""
    if kinds and kinds[layer] in given:  # Gemma 3 has one of each kind
        prefix, given = f"{kinds[layer]}_", given[kinds[layer]]
    frequencies = getattr(module, f"{prefix}inv_freq").double().numpy()
    scale = float(getattr(module, f"{prefix}attention_scaling"))
    rope = _Rope(float(given["rope_theta"]), frequencies, scale)
    if scale != 1.0 and rope.dims != _head_dim(config):
        raise ModelInvalid(f"CTranslate2 cannot scale by {scale:g} only the rotated {rope.dims} values of each head")
    return rope


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _stack(model: Any) -> Any:
    return model.gpt_neox if hasattr(model, "gpt_neox") else model.model


def _final_norm(stack: Any) -> Any:
    names = ("norm", "final_layernorm", "final_layer_norm")
    return next(getattr(stack, name) for name in names if hasattr(stack, name))


def _attention(layer: Any) -> Any:
    return layer.self_attn if hasattr(layer, "self_attn") else layer.attention


def _is_rms(norm: Any) -> bool:
    return type(norm).__name__.endswith("RMSNorm")


def _is_parallel(config: Any) -> bool:
    return bool(config.model_type == "phi" or getattr(config, "use_parallel_residual", False))


def _activation(config: Any) -> Any:
    name = getattr(config, "hidden_activation", None) or config.hidden_act
    known: Mapping[str, Any] = converters._SUPPORTED_ACTIVATIONS
    if name not in known:
        raise ModelInvalid(f"CTranslate2 has no activation {name!r}; it has {', '.join(known)}")
    return known[name]


def _split_heads(spec: Any, module: Any, heads: int) -> None:
    """GPT-NeoX keeps q, k and v of each head together; CTranslate2 wants all q, all k, all v."""
    spec.weight = module.weight.reshape(heads, 3, -1, module.weight.shape[-1]).swapaxes(0, 1).flatten(0, 2)
    if module.bias is not None:
        spec.bias = module.bias.reshape(heads, 3, -1).swapaxes(0, 1).flatten()


_LOADERS: Mapping[str, Callable[[], Any]] = {
    "gpt2": converters.GPT2Loader,
    "opt": converters.OPTLoader,
    "bloom": converters.BloomLoader,
    "gptj": converters.GPTJLoader,
    **dict.fromkeys(
        ("gpt_neox", "llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma", "gemma3_text"), RotaryLoader
    ),
}

_ONLY: Mapping[str, bool] = {
    "qk_layernorm": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "apply_residual_connection_post_layernorm": False,
    "layer_norm_elementwise_affine": True,
    "use_bidirectional_attention": False,
}
"""Fields of config.json, and the one value of each that CTranslate2 computes."""


def decoder_spec(model: Any) -> Any:
    """The module as CTranslate2's model, ids as its vocabulary. Raises ModelInvalid; the library's own errors too."""
    config = model.config
    odd = [name for name, value in _ONLY.items() if bool(getattr(config, name, value)) is not value]
    if odd:
        raise ModelInvalid(f"CTranslate2 does not compute {config.model_type} with {odd[0]} {getattr(config, odd[0])}")
    model.requires_grad_(False)  # GPT-J's loader writes into the weights
    spec = _LOADERS[config.model_type]().get_model_spec(model)
    spec.register_vocabulary([str(token) for token in range(config.vocab_size)])
    last = str(config.vocab_size - 1)  # ends are named in every call, and no prompt is only this token
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = last
    names = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")
    spec.config.layer_norm_epsilon = next(
        (float(getattr(config, name)) for name in names if hasattr(config, name)), 1e-5
    )
    return spec
