"""One compiled OpenVINO graph of a decoder-only model behind the graph loop: keys and values stay in the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import ModelInvalid
from engines.generation.onnx_loop import GraphBackend
from engines.generation.token_choice import Ids, Logits
from engines.models.conversion.openvino_cache import GRAPH


class DecoderGraph(GraphBackend):
    """The graph of openvino_export on the CPU, for whole batches. Rows of the state are reordered by `beam_idx` of the
    next step, so nothing is copied here."""

    def open(self, folder: Path, settings: Mapping[str, Any]) -> str:
        """Compile it; the precision it really computes in. Raises ModelInvalid."""
        import openvino

        core = openvino.Core()
        try:
            graph = core.read_model(str(folder / GRAPH))
            _keep_last_logits(graph)
            compiled = core.compile_model(graph, "CPU", dict(settings))
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise ModelInvalid(
                f"{folder}: OpenVINO cannot open it: {why}; delete the folder to export again"
            ) from error
        self._takes = {name for item in compiled.inputs for name in item.get_names()}
        self._request = compiled.create_infer_request()
        return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())

    def encode(self, ids: Ids, mask: Ids) -> dict[str, Any]:
        self._request.reset_state()
        state: dict[str, Any] = {"mask": mask, "rows": np.arange(len(ids), dtype=np.int32)}
        state["first"] = self._infer(state, ids, np.maximum(mask.cumsum(axis=1) - 1, 0))
        return state

    def step(self, state: dict[str, Any], next_ids: Ids) -> Logits:
        first: Logits | None = state.pop("first", None)
        if first is not None:
            return first
        state["mask"] = np.concatenate([state["mask"], np.ones_like(next_ids)], axis=1)
        return self._infer(state, next_ids, state["mask"].sum(axis=1, keepdims=True) - 1)

    def _infer(self, state: dict[str, Any], ids: Ids, positions: Ids) -> Logits:
        given = {
            "input_ids": ids,
            "attention_mask": state["mask"],
            "position_ids": positions,
            "beam_idx": state["rows"],
        }
        found = self._request.infer({name: value for name, value in given.items() if name in self._takes})
        state["rows"] = np.arange(len(ids), dtype=np.int32)
        logits: Logits = found["logits"][:, -1]
        return logits

    def select(self, state: dict[str, Any], rows: Ids, *, has_new_sources: bool) -> None:
        for name in state:
            state[name] = np.ascontiguousarray(state[name][rows])

    def close(self) -> None:
        del self._request


def _keep_last_logits(graph: Any) -> None:
    """Let the head see the last place of each row only: a prompt's other logits are [B,S,V] for nothing."""
    from openvino import opset13 as ops

    node = graph.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        sources = [each.get_node() for each in node.input_values()]
        node = next(each for each in sources if each.get_type_name() not in ("Constant", "Convert"))
    last = ops.gather(node.input_value(0), ops.constant(np.array([-1])), ops.constant(np.array(1)))
    node.input(0).replace_source_output(last.output(0))
    graph.validate_nodes_and_infer_types()
