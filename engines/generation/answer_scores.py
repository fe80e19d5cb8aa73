"""The separate process that scores given answers, teacher-forced, under the model of a folder.

`call_in_child` runs this, so that the judge's memory is never an engine's: "answer_scores MODEL DTYPE ASKED WRITTEN".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.generation.decoder_model import Forward, positions_of
from engines.models.checkpoint.special_ids import SpecialIds, special_ids
from engines.models.hugging_face import default_attention, load_model
from engines.processes.call_in_child import answer_call


def answer_scores(model_dir: str, dtype: str, asked: str, written: str) -> None:
    """Score the rows of the JSON file `asked`, {"min_new_tokens", "rows": [[prompt ids, answer ids], ...]}, and write
    to `written`, for each, how far its tokens lie below the model's first choices: nats, mean over the tokens.

    As long as fewer than min_new_tokens are written, an end token is no choice.
    """
    import torch

    folder = Path(model_dir)
    wanted = json.loads(Path(asked).read_text(encoding="utf-8"))
    special = special_ids(folder)
    with torch.inference_mode():
        model = load_model(folder, dtype, default_attention(folder))
        forward = Forward(model) if special.is_decoder else None
        found = []
        for prompt, answer in wanted["rows"]:
            logits = _logits(model, forward, special, prompt, answer).float()
            logits[: wanted["min_new_tokens"], list(special.eos)] = float("-inf")
            chosen = logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
            found.append(float((logits.max(-1).values - chosen).mean()))
    Path(written).write_text(json.dumps(found), encoding="utf-8")


def _logits(
    model: Any, forward: Forward | None, special: SpecialIds, prompt: Sequence[int], answer: Sequence[int]
) -> Any:
    """Logits [T, V] before each of the answer's T tokens."""
    import torch

    if forward is None:
        begun = torch.tensor([[special.start, *answer[:-1]]])
        return model(input_ids=torch.tensor([prompt]), decoder_input_ids=begun).logits[0]
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    mask = torch.ones_like(ids)
    return forward(ids, mask, positions_of(mask))[0, len(prompt) - 1 :]


if __name__ == "__main__":
    answer_call(answer_scores)
