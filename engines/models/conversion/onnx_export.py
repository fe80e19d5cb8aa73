"""Export of a T5 model folder to two ONNX graphs, `encoder.onnx` and `decoder.onnx`.

encoder: ids [B,S], mask [B,S] -> cross_k_i, cross_v_i [B,H,S,D] of every decoder layer (computed once a request).
decoder: ids [B,1], mask [B,S], past_k_i, past_v_i [B,H,P,D], cross_k_i, cross_v_i
         -> logits [B,V], k_i, v_i [B,H,P+1,D]; P may be 0, so one graph serves the first step too.

The modules below are hand-written around the weights of the Hugging Face model: the relative position bias is a table
over distances (filled by Hugging Face's own function, so no log runs in the graph), and every weight
is stored transposed so that ONNX Runtime's quantizer sees plain matrix products. `torch.onnx.export(dynamo=True)` keeps
B, S and P free; the older exporter bakes positions in and is wrong at any other length.
"""

# torch is not followed by mypy, so nn.Module has no type to subclass.
# mypy: disable-error-code="misc"

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from engines.errors import ModelInvalid
from engines.models import hugging_face
from engines.processes.call_in_child import answer_call

OPSET = 20  # the first with Gelu, whose tanh form is T5's gelu_new


class Norm(nn.Module):
    """T5's RMSNorm in fp32, worded so that ONNX Runtime recognises and fuses it."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.weight = source.weight
        self.eps = source.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Product(nn.Module):
    """x @ W with W [in, out]."""

    def __init__(self, source: Any, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(source.weight.detach().t().contiguous() * scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class FeedForward(nn.Module):
    """The FFN sublayer, gated or not, with its norm and residual."""

    def __init__(self, source: Any, activation: str) -> None:
        super().__init__()
        dense = source.DenseReluDense
        self.norm = Norm(source.layer_norm)
        self.is_gated = hasattr(dense, "wi_0")
        self.wi = Product(dense.wi_0 if self.is_gated else dense.wi)
        self.gate = Product(dense.wi_1) if self.is_gated else None
        self.wo = Product(dense.wo)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        inner = _activated(self.wi(normed), self.activation)
        if self.gate is not None:
            inner = inner * self.gate(normed)
        return x + self.wo(inner)


def _activated(x: Tensor, name: str) -> Tensor:
    return _ACTIVATIONS[name](x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh"), lambda x: nn.functional.gelu(x, approximate="tanh")),
    **dict.fromkeys(("silu", "swish"), nn.functional.silu),
}


class Attention(nn.Module):
    """The projections of one attention; scores are q.k without 1/sqrt(D)."""

    def __init__(self, source: Any, norm: Any) -> None:
        super().__init__()
        self.norm = Norm(norm)
        self.q, self.k, self.v, self.o = (Product(getattr(source, name)) for name in "qkvo")
        self.heads, self.head_dim = source.n_heads, source.key_value_proj_dim

    def split(self, x: Tensor) -> Tensor:
        """[B,T,H*D] -> [B,H,T,D]"""
        return x.reshape(x.shape[0], -1, self.heads, self.head_dim).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """[B,H,T,D] queries over keys and values; bias broadcasts to [B,H,T,keys]. -> [B,T,E]"""
        weights = torch.softmax(q @ k.transpose(2, 3) + bias, dim=-1)
        mixed = (weights @ v).transpose(1, 2)
        return self.o(mixed.reshape(mixed.shape[0], -1, self.heads * self.head_dim))


class Bias(nn.Module):
    """Relative position bias as a table over key - query distances, -reach..reach; beyond it the value stays."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.reach = int(source.relative_attention_max_distance)
        square = source.compute_bias(self.reach + 1, self.reach + 1).detach()[0]  # [H, query, key]
        table = torch.cat(
            [square[:, -1, :], square[:, 0, 1:]], dim=1
        )  # the last query sees -reach..0, the first 0..reach
        self.table = nn.Parameter(table.t().contiguous(), requires_grad=False)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions [T] and [K] -> [1,H,T,K]."""
        distance = (keys[None, :] - queries[:, None]).clamp(-self.reach, self.reach) + self.reach
        return self.table[distance].permute(2, 0, 1)[None]


class Encoder(nn.Module):
    """ids [B,S], mask [B,S] -> the decoder layers' cross keys and values, k0, v0, k1, ..."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        stack = model.encoder
        self.embedding = stack.embed_tokens
        self.biases = _biases(stack)
        self.attentions = nn.ModuleList(
            Attention(block.layer[0].SelfAttention, block.layer[0].layer_norm) for block in stack.block
        )
        self.dense = nn.ModuleList(FeedForward(block.layer[-1], model.config.dense_act_fn) for block in stack.block)
        self.norm = Norm(stack.final_layer_norm)
        self.cross = nn.ModuleList(
            Attention(block.layer[1].EncDecAttention, block.layer[1].layer_norm) for block in model.decoder.block
        )

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        x = self.embedding(ids)
        positions = torch.arange(ids.shape[1], device=ids.device)
        hidden = _hidden(mask)
        tables = [bias(positions, positions) + hidden for bias in self.biases]
        for layer, (attention, dense) in enumerate(zip(self.attentions, self.dense, strict=True)):
            normed = attention.norm(x)
            q, k, v = (attention.split(part(normed)) for part in (attention.q, attention.k, attention.v))
            x = dense(x + attention.attend(q, k, v, tables[min(layer, len(tables) - 1)]))
        x = self.norm(x)
        return [attention.split(part(x)) for attention in self.cross for part in (attention.k, attention.v)]


class Decoder(nn.Module):
    """One decode step, see the module's docstring."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        stack = model.decoder
        self.embedding = stack.embed_tokens
        self.biases = _biases(stack)
        self.attentions = nn.ModuleList(
            Attention(block.layer[0].SelfAttention, block.layer[0].layer_norm) for block in stack.block
        )
        self.cross = nn.ModuleList(
            Attention(block.layer[1].EncDecAttention, block.layer[1].layer_norm) for block in stack.block
        )
        self.dense = nn.ModuleList(FeedForward(block.layer[-1], model.config.dense_act_fn) for block in stack.block)
        self.norm = Norm(stack.final_layer_norm)
        scale = model.config.d_model**-0.5 if hugging_face.scales_outputs(model) else 1.0
        self.head = Product(model.lm_head, scale)

    def forward(self, ids: Tensor, mask: Tensor, past: list[Tensor], cross: list[Tensor]) -> list[Tensor]:
        x = self.embedding(ids)
        length = past[0].shape[2]
        keys = torch.arange(length + 1, device=ids.device)
        tables = [bias(keys[-1:], keys) for bias in self.biases]
        hidden = _hidden(mask)
        present = []
        for layer, attention in enumerate(self.attentions):
            normed = attention.norm(x)
            k = torch.cat([past[2 * layer], attention.split(attention.k(normed))], dim=2)
            v = torch.cat([past[2 * layer + 1], attention.split(attention.v(normed))], dim=2)
            x = x + attention.attend(attention.split(attention.q(normed)), k, v, tables[min(layer, len(tables) - 1)])
            outer = self.cross[layer]
            q = outer.split(outer.q(outer.norm(x)))
            x = self.dense[layer](x + outer.attend(q, cross[2 * layer], cross[2 * layer + 1], hidden))
            present += [k, v]
        logits = self.head(self.norm(x)[:, -1])
        return [logits, *present]


def _biases(stack: Any) -> nn.ModuleList:
    """One table for the whole stack, or one a layer (umT5)."""
    attentions = [block.layer[0].SelfAttention for block in stack.block]
    return nn.ModuleList(Bias(item) for item in attentions if item.has_relative_attention_bias)


def _hidden(mask: Tensor) -> Tensor:
    """0 for real source tokens, the most negative fp32 for padding, [B,1,1,S]; Hugging Face's value, not -inf."""
    return (1.0 - mask.to(torch.float32))[:, None, None, :] * torch.finfo(torch.float32).min


def names(layers: int, prefix: str) -> list[str]:
    """Key and value names of every layer, in graph order."""
    return [f"{prefix}{kind}_{layer}" for layer in range(layers) for kind in "kv"]


def export(model_dir: str, folder: str) -> None:
    """Write encoder.onnx and decoder.onnx (weights beside them) to `folder`. Raises ModelInvalid."""
    model = hugging_face.load_model(Path(model_dir), "fp32", "eager")
    if model.config.dense_act_fn not in _ACTIVATIONS:
        raise ModelInvalid(
            f"{model_dir}: activation {model.config.dense_act_fn!r} is not exported; known: {', '.join(_ACTIVATIONS)}"
        )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # else it reports the absence of torchvision, four times
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            _export_encoder(Encoder(model), len(model.decoder.block), Path(folder))
            _export_decoder(Decoder(model), model, Path(folder))
    except (AttributeError, RuntimeError, ValueError) as error:
        raise ModelInvalid(f"{model_dir}: torch cannot export it to ONNX: {str(error).splitlines()[0]}") from error


def _export_encoder(encoder: Encoder, layers: int, folder: Path) -> None:
    ids = torch.ones((2, 5), dtype=torch.int64)
    free = {0: Dim("B"), 1: Dim("S")}
    torch.onnx.export(
        encoder,
        (ids, torch.ones_like(ids)),
        str(folder / "encoder.onnx"),
        input_names=["ids", "mask"],
        output_names=names(layers, "cross_"),
        dynamic_shapes=(free, free),
        **_EXPORT,
    )


def _export_decoder(decoder: Decoder, model: Any, folder: Path) -> None:
    layers = len(decoder.attentions)
    heads, head_dim = model.config.num_heads, model.config.d_kv
    past = [torch.zeros((2, heads, 3, head_dim)) for _ in range(2 * layers)]
    cross = [torch.zeros((2, heads, 5, head_dim)) for _ in range(2 * layers)]
    batch, source, length = Dim("B"), Dim("S"), Dim("P")
    torch.onnx.export(
        decoder,
        (torch.ones((2, 1), dtype=torch.int64), torch.ones((2, 5), dtype=torch.int64), past, cross),
        str(folder / "decoder.onnx"),
        input_names=["ids", "mask", *names(layers, "past_"), *names(layers, "cross_")],
        output_names=["logits", *names(layers, "")],
        dynamic_shapes=(
            {0: batch},
            {0: batch, 1: source},
            [{0: batch, 2: length}] * (2 * layers),
            [{0: batch, 2: source}] * (2 * layers),
        ),
        **_EXPORT,
    )


_EXPORT: dict[str, Any] = {"dynamo": True, "opset_version": OPSET, "external_data": True, "verbose": False}


def quantize(exact: str, folder: str) -> None:
    """The graphs of folder `exact` with int8 weights (per output channel) in every product with a constant matrix.

    The activations of such a product are quantized on the fly, one scale for the whole tensor. The products inside
    attention, norms and embeddings stay fp32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises a pre-processing that these graphs do not need
    for path in sorted(Path(exact).glob("*.onnx")):
        quantize_dynamic(
            path,
            Path(folder) / path.name,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )


BLOCK = 32
"""Weights of int4 that share a scale."""


def quantize_int4(exact: str, folder: str) -> None:
    """The graphs of folder `exact` with int4 weights, one scale for BLOCK of them, in every product with a constant
    matrix (MatMulNBits). Its activations are quantized to int8 on the fly, block by block of each row.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger().setLevel(logging.ERROR)
    for path in sorted(Path(exact).glob("*.onnx")):
        quantizer = MatMulNBitsQuantizer(onnx.load(path), bits=4, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        quantizer.model.save_model_to_file(str(Path(folder) / path.name), use_external_data_format=True)


if __name__ == "__main__":
    answer_call(export, quantize, quantize_int4)
