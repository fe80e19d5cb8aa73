"""Times at which the tokens of a streamed answer arrived, where one frame may hold several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.load.protocol.answer.token_counts import Usage
from harness.load.protocol.interface import Answer

THINK, THOUGHT = "<think>", "</think>"
"""Around reasoning that a server leaves in the text; a chat template may have written the first one into the prompt."""


def first_output(pieces: Sequence[tuple[int, str]]) -> int | None:
    """When the first piece of a text came that is not reasoning; None where there is none. `pieces`: (ns, text)."""
    text = "".join(piece for _, piece in pieces)
    end = text.find(THOUGHT)
    if end < 0:
        return pieces[0][0] if pieces and not text.lstrip().startswith(THINK) else None
    answer = text[end + len(THOUGHT) :].lstrip()
    read = 0
    for at_ns, piece in pieces:
        read += len(piece)
        if read > len(text) - len(answer):
            return at_ns
    return None


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A frame that added text: when, how many characters, how many tokens the server had counted by then, whether the
    answer ended with it (an end token is counted and not sent)."""

    at_ns: int
    characters: int
    so_far: int | None
    is_end: bool


class StreamTimes:
    """The arrivals of one stream, frame by frame, and at last the times of its tokens.

    A frame is one token, unless the counts state otherwise. Where every frame has a growing count, it holds as many as
    that grew by. Where only the total is known and is more than the frames and an end token, the tokens are spread over
    the frames by their share of the text. A frame never holds more tokens than characters: what is counted beyond
    the whole text was never sent.
    """

    def __init__(self) -> None:
        self._arrivals: list[_Arrival] = []
        self._outputs: list[tuple[int, str]] = []
        self._has_reasoning = False
        self._has_end_token = False

    def note(self, at_ns: int, added: Sequence[tuple[str, str]], so_far: int | None, is_end: bool) -> None:
        """Take in a frame: (reasoning, output) that each choice added, the tokens so far by the server's count, and
        whether an answer ended with an end token."""
        reasoning, output = ("".join(texts) for texts in zip(*added, strict=True)) if added else ("", "")
        self._has_end_token = self._has_end_token or is_end
        if not reasoning and not output:
            return
        self._arrivals.append(_Arrival(at_ns, len(reasoning + output), so_far, is_end))
        self._has_reasoning = self._has_reasoning or bool(reasoning)
        if output:
            self._outputs.append((at_ns, output))

    def added_to(self, answer: Answer, usage: Usage) -> Answer:
        """`answer` with the times of its tokens, and the number of those that were counted and not sent."""
        hidden = 0 if self._has_reasoning else usage.hidden
        sent = (usage.generated or 0) - hidden
        characters = sum(arrival.characters for arrival in self._arrivals)
        if sent > characters + 1 and self._arrivals:
            hidden, sent = (usage.generated or 0) - len(self._arrivals), len(self._arrivals)
        counts = self._growth() or self._shares(sent, characters)
        return replace(
            answer,
            token_ns=tuple(arrival.at_ns for arrival, n in zip(self._arrivals, counts, strict=True) for _ in range(n)),
            first_output_ns=first_output(self._outputs),
            hidden_tokens=hidden,
        )

    def _growth(self) -> list[int]:
        """Tokens of each frame by counts that grow from frame to frame; [] where a frame has none."""
        counts: list[int] = []
        taken = 0
        for arrival in self._arrivals:
            if arrival.so_far is None:
                return []
            counts.append(min(max(1, arrival.so_far - taken - arrival.is_end), arrival.characters))
            taken += counts[-1]
        return counts

    def _shares(self, sent: int, characters: int) -> list[int]:
        """Tokens of each frame by its share of the text; one each where there are hardly more than frames."""
        frames = len(self._arrivals)
        if not frames or sent <= frames + 1:
            return [1] * frames
        if self._has_end_token and sent % frames:  # equal chunks that fill the count leave no room for an end token
            sent -= 1
        counts: list[int] = []
        read = taken = 0
        for arrival in self._arrivals:
            read += arrival.characters
            counts.append(min(max(1, round(sent * read / characters) - taken), arrival.characters))
            taken += counts[-1]
        return counts
