"""The generation loop of the adapters that run a Hugging Face torch module: transformers, accelerate, deepspeed.

Greedy decoding and sampling run an own loop over the model's forward pass and its caches, because `generate` has one
set of parameters for a whole batch; beams go through `generate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engines.api import Backend, GenerateParams, GenerateRequest, TokenEvent
from engines.generation.decoder_model import rope_groups
from engines.generation.token_choice import Decoding, check_request, padded, renumbered, warm_up_request
from engines.generation.torch_model import DecodeModel, until_eos
from engines.models.checkpoint.kind import ModelKind
from engines.models.checkpoint.special_ids import SpecialIds


class TorchBackend(Backend):
    """A Backend over a DecodeModel; a subclass's `load` calls `_use`."""

    def _use(self, model: DecodeModel, special: SpecialIds, kind: ModelKind) -> None:
        """Serve `model`, once it is warm."""
        self._model = model
        self._special = special
        self._kind = kind
        for _ in self.generate([warm_up_request(special)]):
            pass

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        for request in batch:
            check_request(request, self._kind.vocab_size, self._kind.max_positions)
        greedy = [index for index, request in enumerate(batch) if request.params.num_beams == 1]
        beams: dict[tuple[GenerateParams, int], list[int]] = {}
        for index, request in enumerate(batch):
            if request.params.num_beams > 1:  # `generate` penalizes the padding on the left of a prompt too: none there
                length = len(request.input_ids) if self._kind.is_decoder else 0
                beams.setdefault((request.params, length), []).append(index)
        return self._events(batch, greedy, tuple(beams.values()))

    def _events(
        self, batch: Sequence[GenerateRequest], greedy: Sequence[int], beams: Sequence[Sequence[int]]
    ) -> Iterator[Sequence[TokenEvent]]:
        for indices in rope_groups(batch, greedy, self._kind.rope_switch):
            yield from renumbered(self._decode([batch[index] for index in indices]), indices)
        for searched in beams:
            yield self._beam_search([batch[index] for index in searched], searched)

    def _decode(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        model = self._model
        model.begin(*padded(batch, self._special), max(request.params.max_new_tokens for request in batch))
        decoding = Decoding(batch, self._special)
        while not decoding.is_done:
            yield decoding.step(model.step(decoding.next_ids))
            keep = decoding.shrink() if model.can_select else None
            if keep is not None:
                model.select(keep)

    def _beam_search(self, batch: Sequence[GenerateRequest], indices: Sequence[int]) -> Sequence[TokenEvent]:
        """Every token of each best hypothesis at once."""
        params = batch[0].params
        ids, mask = padded(batch, self._special)
        rows = self._model.beams(ids, mask, params)
        answers = [until_eos(row, self._special.eos, params.max_new_tokens) for row in rows]
        logprobs = self._model.teacher_forced(ids, mask, rows) if params.return_logprobs else None
        events = []
        for row, (index, answer) in enumerate(zip(indices, answers, strict=True)):
            for position, token in enumerate(answer):
                is_last = position == len(answer) - 1
                finish = ("eos" if token in self._special.eos else "length") if is_last else None
                logprob = None if logprobs is None else float(logprobs[row, position])
                events.append(TokenEvent(index=index, token_id=token, logprob=logprob, finish=finish))
        return events

    def close(self) -> None:
        del self._model
