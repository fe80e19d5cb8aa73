"""Export of a decoder-only model folder to one OpenVINO graph that keeps keys and values as its state.

input_ids [B,S], attention_mask [B,P+S] (1 = real), position_ids [B,S], beam_idx [B] (the row of the state that each row
continues) -> logits [B,S,V]. P tokens are in the state already, 0 at first.

The Hugging Face module is traced with its own arithmetic; only attention is ours, because OpenVINO GenAI replaces it by
paged attention: it recognises the graph by its shape, and reads of a mask only what its patterns name, the window and
the ALiBi slopes (state_management_pattern.cpp, OpenVINO 2026.4). So the nodes of `_windowed` and `_with_slopes` stand
in that order, no-ops included.
"""

# torch is not followed by mypy, so nn.Module has no type to subclass.
# mypy: disable-error-code="misc"

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from openvino.tools.ovc import telemetry_stub, telemetry_utils
from torch import Tensor, nn

from engines.errors import ModelInvalid
from engines.models import hugging_face
from engines.models.checkpoint.kind import ModelKind, model_kind
from engines.models.conversion.openvino_cache import GRAPH
from engines.models.conversion.traced_decoder import Past, TracedDecoder
from engines.processes.call_in_child import answer_call

INT4_GROUP = 64
"""Weights that share a scale and a zero point in int4; a row that it does not divide gets smaller groups."""
_HIDDEN = np.finfo(np.float32).min


class _Step(TracedDecoder):
    """The traced module. `full` and `windowed` are the additive masks of layers that see all, and of those that look
    back a window."""

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, full: Tensor, windowed: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Logits [B,S,V], then keys and values of every layer."""
        self.masks = {False: full, True: windowed}
        cache = Past(past)
        given = {} if self.model.config.model_type == "bloom" else {"position_ids": position_ids}
        logits = self.model(
            input_ids=input_ids, attention_mask=full, past_key_values=cache, use_cache=True, **given
        ).logits
        return (logits, *cache.present)

    def mixed(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        return nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=self.masks[window is not None], scale=scale
        )


def export(model_dir: str, folder: str) -> None:
    """Write GRAPH with fp32 weights to `folder`. Raises ModelInvalid."""
    kind = model_kind(Path(model_dir))
    model = hugging_face.load_model(Path(model_dir), "fp32", "eager")
    slopes = None
    if kind.model_type == "bloom":
        tensor = model.transformer.build_alibi_tensor(torch.ones((1, 2)), kind.heads, torch.float32)
        slopes = tensor[:, 0, 1].numpy()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's: shapes are taken as constants in branches of no matter here
            telemetry_utils.tm = telemetry_stub  # else each conversion is reported to Google Analytics, or waits for it
            graph = openvino.convert_model(_Step(model, "openvino"), example_input=_example(kind))
        _complete(graph, kind, slopes)
    except (AttributeError, RuntimeError, ValueError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise ModelInvalid(f"{model_dir}: it cannot be exported for OpenVINO: {why}") from error
    openvino.save_model(graph, str(Path(folder) / GRAPH), compress_to_fp16=False)


def _example(kind: ModelKind) -> tuple[Tensor, ...]:
    """Inputs to trace with: 2 rows of 3 new tokens after 4."""
    ids, mask = torch.ones((2, 3), dtype=torch.int64), torch.zeros((2, 1, 3, 7))
    past = [torch.zeros((2, kind.kv_heads, 4, kind.head_dim)) for _ in range(2 * kind.layers)]
    return (ids, ids + 3, mask, mask.clone(), *past)


def _complete(graph: Any, kind: ModelKind, slopes: Any) -> None:
    """Names and masks, and keys and values as state that begins empty, as GenAI and the plain runtime want them."""
    ids, positions, full, windowed, *past = graph.inputs
    attention = ops.parameter([-1, -1], np.int64, name="attention_mask")
    beams = ops.parameter([-1], np.int32, name="beam_idx")
    named = {"input_ids": ids, "position_ids": positions, "logits": graph.outputs[0]}
    for name, place in (named | {"attention_mask": attention.output(0), "beam_idx": beams.output(0)}).items():
        place.get_node().set_friendly_name(name)
        place.get_tensor().set_names({name})
    graph.add_parameters([attention, beams])
    for parameter, node in zip((full, windowed), _masks(ids, attention, kind, slopes), strict=True):
        _replace(parameter, node)
        graph.remove_parameter(parameter.get_node())
    states = {}
    for place, (parameter, present) in enumerate(zip(past, graph.outputs[1:], strict=True)):
        of = f"{place // 2}.{'value' if place % 2 else 'key'}"
        parameter.get_tensor().set_names({f"past_key_values.{of}"})
        parameter.get_node().set_partial_shape(openvino.PartialShape([-1, kind.kv_heads, -1, kind.head_dim]))
        _replace(parameter, lambda old: ops.gather(old.get_node(), beams, _whole(0)))
        present.get_tensor().set_names({f"present.{of}"})
        states[f"past_key_values.{of}"] = f"present.{of}"
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, states)
    rows = ops.gather(ops.shape_of(graph.input("input_ids")), _whole([0]), _whole(0))
    shape = ops.concat([rows, _whole([kind.kv_heads]), _whole([0]), _whole([kind.head_dim])], 0)
    empty = ops.broadcast(ops.constant(np.float32(0)), shape)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty.output(0)])
    graph.validate_nodes_and_infer_types()


def _replace(parameter: Any, made: Any) -> None:
    """What read `parameter` reads `made` instead: a node, or what a function makes of the parameter."""
    readers = list(parameter.get_target_inputs())
    node = made(parameter) if callable(made) else made
    for reader in readers:
        reader.replace_source_output(node.output(0))


def _whole(value: Any) -> Any:
    return ops.constant(np.array(value, np.int64))


def _masks(ids: Any, attention: Any, kind: ModelKind, slopes: Any) -> tuple[Any, Any]:
    """Nodes of the masks [B,1,S,K] of layers that see all, and of those that look back a window."""
    total, new = (ops.gather(ops.shape_of(node), _whole(1), _whole(0)) for node in (attention, ids))
    line = ops.range(_whole(0), total, _whole(1), output_type="i64")
    rows = ops.range(ops.subtract(total, new), total, _whole(1), output_type="i64")
    queries, keys = ops.unsqueeze(rows, _whole(1)), ops.unsqueeze(line, _whole(0))
    causal = ops.less_equal(keys, queries)
    real = ops.unsqueeze(ops.convert(attention, "boolean"), _whole([1, 2]))
    seen = ops.logical_or(real, ops.equal(keys, queries))  # padding sees itself: a row may not be masked whole
    visible = ops.logical_and(causal, seen)
    zero, hidden = ops.constant(np.float32(0)), ops.constant(_HIDDEN)
    full = ops.select(visible, zero, hidden) if slopes is None else _with_slopes(visible, keys, slopes)
    window = kind.sliding_window
    return full, full if window is None else _windowed(keys, queries, causal, seen, total, window)


def _with_slopes(visible: Any, keys: Any, slopes: Any) -> Any:
    """ALiBi: each head's slope times the key's place. Softmax does not see that the query's place is not taken off."""
    heads = len(slopes)
    places = ops.convert(ops.unsqueeze(keys, _whole(0)), "f32")
    bias = ops.multiply(ops.constant(slopes.reshape(heads, 1, 1).astype(np.float32)), places)
    bias = ops.reshape(bias, _whole([heads, 1, -1]), False)
    bias = ops.reshape(bias, _whole([1, heads, 1, -1]), False)
    return ops.select(ops.logical_not(visible), ops.constant(_HIDDEN), bias)


def _windowed(keys: Any, queries: Any, causal: Any, seen: Any, total: Any, window: int) -> Any:
    """A key is seen by the `window` - 1 places after it, and its own."""
    yes = ops.constant(np.array(True))
    near = ops.greater(keys, ops.add(queries, _whole([[-window]])))
    visible = ops.bitwise_and(ops.bitwise_and(yes, near), causal)
    visible = ops.bitwise_and(ops.bitwise_and(yes, visible), seen)
    visible = ops.broadcast(visible, ops.shape_of(visible))
    mask = ops.select(visible, ops.constant(np.float32(0)), ops.constant(_HIDDEN))
    return ops.slice(mask, _whole([0]), ops.unsqueeze(total, _whole(0)), _whole([1]), _whole([3]))


def compress(source: str, target: str, dtype: str) -> None:
    """The graph of folder `source` with int8 or int4 weights in `target`, by nncf, without calibration data.

    int8: every matrix and the embeddings, a scale and a zero point a row. int4: groups of INT4_GROUP; embeddings and
    head stay int8.
    """
    os.environ["NNCF_CI"] = "1"  # else it reports its use to Google Analytics
    import nncf

    modes: dict[str, Callable[..., Any]] = {
        "int8": partial(nncf.compress_weights, mode=nncf.CompressWeightsMode.INT8_ASYM),
        "int4": partial(
            nncf.compress_weights,
            mode=nncf.CompressWeightsMode.INT4_ASYM,
            group_size=INT4_GROUP,
            ratio=1.0,
            advanced_parameters=nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
            ),
        ),
    }
    small = modes[dtype](openvino.Core().read_model(str(Path(source) / GRAPH)))
    openvino.save_model(small, str(Path(target) / GRAPH), compress_to_fp16=False)


if __name__ == "__main__":
    answer_call(export, compress)
