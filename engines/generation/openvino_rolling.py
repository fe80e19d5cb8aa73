"""OpenVINO GenAI's continuous batching as a rolling batch, on token ids."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.api import GenerateParams, GenerateRequest, TokenEvent
from engines.errors import ModelInvalid, RequestInvalid
from engines.generation.token_choice import check_request, warm_up_request
from engines.models.checkpoint.kind import ModelKind
from engines.models.checkpoint.special_ids import SpecialIds


@dataclass(slots=True)
class _Live:
    """A request in flight."""

    handle: Any
    wants_logprobs: bool


class RollingDecoder:
    """The graph of openvino_export in a ContinuousBatchingPipeline. Nothing is kept between requests: its prefix cache
    is off."""

    def __init__(self, special: SpecialIds, kind: ModelKind, slots: int) -> None:
        self._special, self._kind, self._slots = special, kind, slots
        self._live: dict[int, _Live] = {}
        self._count = 0

    def open(self, folder: Path, settings: Mapping[str, Any], step_tokens: int) -> None:
        """Compile it, and answer one short request. A step reads at most `step_tokens`. Raises ModelInvalid."""
        import openvino_genai

        config = openvino_genai.SchedulerConfig()
        config.max_num_seqs, config.max_num_batched_tokens = self._slots, step_tokens
        config.enable_prefix_caching, config.dynamic_split_fuse = False, True
        try:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(folder), _no_tokenizer(), config, "CPU", **settings
            )
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            raise ModelInvalid(f"{folder}: OpenVINO GenAI cannot open it: {why}; delete it to export again") from error
        self.admit(warm_up_request(self._special))
        while self._live:
            self.step()

    def admit(self, request: GenerateRequest) -> int | None:
        """Take the request into a free slot; None when every slot is taken. Raises RequestInvalid."""
        from openvino import Tensor

        check_request(request, self._kind.vocab_size, self._kind.max_positions)
        config = self._config(request.params)
        if len(self._live) >= self._slots:
            return None
        self._count += 1
        ids = Tensor(np.array([request.input_ids], dtype=np.int64))
        handle = self._pipeline.add_request(self._count, ids, config)
        self._live[self._count] = _Live(handle, request.params.return_logprobs)
        return self._count

    def _config(self, params: GenerateParams) -> Any:
        """GenAI's words for the same. Raises RequestInvalid for what it does otherwise than Hugging Face."""
        import openvino_genai

        for name, plain in (("num_beams", 1), ("no_repeat_ngram_size", 0)):
            if getattr(params, name) != plain:
                raise RequestInvalid(
                    f"{name} {getattr(params, name)} is not served from a rolling batch; set rolling_batch to disable"
                )
        config = openvino_genai.GenerationConfig()
        config.set_eos_token_id(self._special.eos[0])
        config.stop_token_ids = set(self._special.eos)
        config.max_new_tokens, config.min_new_tokens = params.max_new_tokens, params.min_new_tokens
        config.repetition_penalty = params.repetition_penalty
        config.logprobs = int(params.return_logprobs)
        config.do_sample = params.do_sample
        if params.do_sample:
            config.temperature, config.top_p = params.temperature, params.top_p
            config.top_k = params.top_k or self._kind.vocab_size
            config.rng_seed = secrets.randbits(31) if params.seed is None else params.seed  # without one, GenAI takes 0
        return config

    def step(self) -> Sequence[TokenEvent]:
        """One step over all slots; empty when idle."""
        if not self._live:
            return []
        self._pipeline.step()
        return [event for index in tuple(self._live) for event in self._events(index)]

    def _events(self, index: int) -> list[TokenEvent]:
        """What the step gave one request; its slot is free after the last."""
        live = self._live[index]
        status = live.handle.get_status().name
        events: list[TokenEvent] = []
        while live.handle.can_read():
            for output in live.handle.read().values():
                finish = {"STOP": "eos", "LENGTH": "length"}.get(output.finish_reason.name)
                last = len(output.generated_ids) - 1
                for place, token in enumerate(output.generated_ids):
                    events.append(
                        TokenEvent(
                            index=index,
                            token_id=token,
                            logprob=output.generated_log_probs[place] if live.wants_logprobs else None,
                            finish=finish if place == last else None,
                        )
                    )
        if status != "RUNNING":
            del self._live[index]
            if status != "FINISHED":
                raise RuntimeError(f"OpenVINO GenAI ended a request as {status}: no memory for its keys and values?")
        return events

    def cancel(self, index: int) -> None:
        """End a request and free its slot."""
        live = self._live.pop(index, None)
        if live is not None:
            live.handle.cancel()

    def close(self) -> None:
        """End every request and free the model."""
        for index in tuple(self._live):
            self.cancel(index)
        del self._pipeline


def _no_tokenizer() -> Any:
    """The tokenizer that the pipeline insists on and is never asked anything: texts become ids in the server."""
    import openvino
    import openvino_genai
    from openvino import opset13 as ops
    from openvino import opset15

    text = ops.parameter([-1], openvino.Type.string, name="text")
    ids, mask = (ops.result(ops.constant(np.ones((1, 1), dtype=np.int64))) for _ in range(2))
    ids.output(0).set_names({"input_ids"})
    mask.output(0).set_names({"attention_mask"})
    given = ops.parameter([-1, -1], np.int64, name="ids")
    none = ops.reduce_sum(ops.multiply(given, ops.constant(np.array(0))), ops.constant(np.array([1])))
    none = ops.convert(none, "i32")
    words = ops.result(opset15.string_tensor_pack(none, none, ops.constant(np.array([32], dtype=np.uint8))))
    words.output(0).set_names({"string_output"})
    parts: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for graph in (openvino.Model([ids, mask], [text], "ids"), openvino.Model([words], [given], "text")):
            path = Path(folder) / f"{graph.get_name()}.xml"
            openvino.save_model(graph, str(path))
            parts += [
                path.read_text(encoding="utf-8"),
                openvino.Tensor(np.fromfile(path.with_suffix(".bin"), np.uint8)),
            ]
    return openvino_genai.Tokenizer(*parts)
