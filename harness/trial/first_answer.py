"""The first answer of a server that somebody else started: awaited before anything is measured.

A health path may answer long before the model does. So one real request, in the form that the load will send, is asked
until it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import httpx

from engines.adapters.api_key import without_key
from engines.errors import LaunchFailed, NotReady
from engines.processes.http_look import trusted
from engines.processes.waiting import Waiting
from harness.load.protocol.request_form import RequestForm
from harness.records import Prompt
from harness.trial.ask_prompts import ANSWER_TIMEOUT_S

POLL_S = 1.0
SERVER_ERROR_S = 20.0
"""A 500 may come from a model that is not loaded yet; one that stays is measured as what it is."""
LOADING = frozenset({408, 425, 429, 502, 503, 504})
"""Not now: asked again until the deadline."""
WRONG_PLACE = frozenset({401, 403, 404, 405, 410, 501})
"""Every request would be refused like this one."""
SHOWN = 300
"""Characters of a refusal that a message repeats."""

Post = Callable[[float], httpx.Response]
"""Sends the first request, with a time limit in seconds."""


def await_answer(form: RequestForm, prompts: Sequence[Prompt], waiting: Waiting) -> str:
    """Return when the shortest prompt is answered, or refused as others would not be; '' or that refusal. Raises
    LaunchFailed (wrong address, key or path), NotReady at the end of `waiting`."""
    body = form.body((min(prompts, key=lambda each: len(each.text)),))
    with httpx.Client(trust_env=False, verify=trusted(), headers=form.headers()) as client:
        return answered(
            form.address.url,
            lambda limit_s: client.post(form.address.url, content=body, timeout=limit_s),
            waiting,
            hide=lambda text: without_key(text, form.api_key_env),
        )


def answered(url: str, post: Post, waiting: Waiting, hide: Callable[[str], str] = str) -> str:
    """See `await_answer`; `hide` takes secrets out of what is shown."""
    failing_since: float | None = None
    while True:
        limit_s = max(1.0, min(ANSWER_TIMEOUT_S, waiting.left_s))
        try:
            response = post(limit_s)
        except httpx.TimeoutException:
            raise NotReady(f"{url} took the first request and did not answer it within {limit_s:.0f} s") from None
        except httpx.HTTPError as error:
            why = hide(f"{url}: {type(error).__name__}: {error}")
        else:
            status = response.status_code
            if response.is_success:
                return ""
            why = hide(_refusal(url, response))
            if 300 <= status < 400 or status in WRONG_PLACE:
                raise LaunchFailed(why)
            if status not in LOADING:
                failing_since = waiting.waited_s if failing_since is None else failing_since
                if status < 500 or waiting.waited_s - failing_since >= SERVER_ERROR_S:
                    return why
        if waiting.is_over:
            raise NotReady(f"{why}; no request was answered within {waiting.timeout_s:g} s (ready_timeout_s)")
        waiting.pause(POLL_S, why)


def _refusal(url: str, response: httpx.Response) -> str:
    status = response.status_code
    if 300 <= status < 400:
        to = response.headers.get("location", "nowhere")
        return f"{url} redirects ({status}) to {to}, and a load follows no redirect; write that address in option url"
    hint = "; correct url, model_name, api_key_env or workload.request" if status in WRONG_PLACE else ""
    return f"the first request to {url} got HTTP {status}: {response.text[:SHOWN]}{hint}"
