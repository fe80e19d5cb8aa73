"""The generation loop over exported graphs, shared by the ONNX Runtime and OpenVINO adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engines.api import GenerateRequest, TokenEvent
from engines.generation.beam_search import BeamSearches
from engines.generation.token_choice import Decoding, Ids, Logits, check_request, padded, renumbered, warm_up_request
from engines.models.checkpoint.kind import ModelKind
from engines.models.checkpoint.special_ids import SpecialIds


class GraphBackend:
    """`generate` of a Backend, over a pass over the prompts and a decode step: a subclass gives the three calls below,
    and `use` comes before the first request."""

    def encode(self, ids: Ids, mask: Ids) -> Any:
        """The state of a new batch, after an encoder or a decoder-only model has read the prompts."""
        raise NotImplementedError

    def step(self, state: Any, next_ids: Ids) -> Logits:
        """Logits [B, V] for the next ids [B, 1]; the pasts in `state` grow by one."""
        raise NotImplementedError

    def select(self, state: Any, rows: Ids, *, has_new_sources: bool) -> None:
        """Rows of the state, repeated or left out as `rows` states; without new sources only the pasts change."""
        raise NotImplementedError

    def use(self, special: SpecialIds, kind: ModelKind) -> None:
        """Serve, once warm."""
        self._special = special
        self._kind = kind
        for _ in self.generate([warm_up_request(special)]):
            pass

    def generate(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        for request in batch:
            check_request(request, self._kind.vocab_size, self._kind.max_positions)
        greedy = [index for index, request in enumerate(batch) if request.params.num_beams == 1]
        beams = [index for index, request in enumerate(batch) if request.params.num_beams > 1]
        return self._events(batch, greedy, beams)

    def _events(
        self, batch: Sequence[GenerateRequest], greedy: Sequence[int], beams: Sequence[int]
    ) -> Iterator[Sequence[TokenEvent]]:
        if greedy:
            yield from renumbered(self._decode([batch[index] for index in greedy]), greedy)
        if beams:
            yield from renumbered(self._beam_search([batch[index] for index in beams]), beams)

    def _decode(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        decoding = Decoding(batch, self._special)
        state = self.encode(*padded(batch, self._special))
        while not decoding.is_done:
            yield decoding.step(self.step(state, decoding.next_ids))
            keep = decoding.shrink()
            if keep is not None:
                self.select(state, keep, has_new_sources=True)

    def _beam_search(self, batch: Sequence[GenerateRequest]) -> Iterator[Sequence[TokenEvent]]:
        searches = BeamSearches(batch, self._special)
        state = self.encode(*padded(batch, self._special))
        self.select(state, searches.sources, has_new_sources=True)
        while not searches.is_done:
            events = searches.step(self.step(state, searches.next_ids))
            if events:
                yield events
            # The rows of one search share their source: only a search that ended changes masks and cross-attention.
            self.select(state, searches.sources, has_new_sources=searches.has_closed)
