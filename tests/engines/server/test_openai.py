"""OpenAI's paths of the model server, driven by the `openai` package's client: completions, chats, streams, errors."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from engines.hosted import RunningServer
from engines.launching import launch_file
from tests.engines.models.t5_folders import BUNDLED
from tests.engines.server.running import READY_TIMEOUT_S, fake_server, frozen_worker, is_alive
from tests.scenarios.test_bundled_decoder import MODEL
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.role }} {{ m.content }} {% endfor %}{{ mood }}"
)

Client = openai.OpenAI


def client_of(running: RunningServer) -> Client:
    http = httpx.Client(trust_env=False)
    return openai.OpenAI(base_url=f"{running.endpoint.url}/v1", api_key="any", max_retries=0, http_client=http)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, httpx.Client]]:
    folder = tmp_path_factory.mktemp("openai")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with fake_server(folder, max_request_size=10_000, option__token_ms=1) as started:
        yield started


@pytest.fixture(scope="module", params=["disable", "auto"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with static batches, and one with a rolling batch."""
    folder = tmp_path_factory.mktemp("rolling")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with (
        fake_server(folder, option__rolling_batch=request.param) as (running, _),
        client_of(running) as client,
    ):
        yield client


def complete(client: Client, prompt: Any = "a b c", **fields: Any) -> Any:
    return client.completions.create(model="model", prompt=prompt, **fields)


def counts(answer: Any) -> tuple[int, int, int]:
    return answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens


def test_a_completion_and_its_usage(client: Client) -> None:
    answer = complete(client)
    assert (answer.object, answer.model, answer.choices[0].text) == ("text_completion", "model", "a b c")
    assert answer.choices[0].finish_reason == "stop"
    assert counts(answer) == (4, 4, 8)
    cut = complete(client, max_tokens=2)
    assert (cut.choices[0].text, cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("a b", "length", 2)


def test_several_prompts_and_token_ids(client: Client) -> None:
    several = complete(client, ["a b", "c"])
    assert [(choice.index, choice.text) for choice in several.choices] == [(0, "a b"), (1, "c")]
    assert counts(several) == (5, 5, 10)
    ids = complete(client, "a b", extra_body={"return_token_ids": True}).choices[0].token_ids
    assert complete(client, ids).choices[0].text == "a b"


def test_a_stop_string_ends_the_answer_before_it(client: Client) -> None:
    answer = complete(client, "one two three four", stop=[" three", "four"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one two", "stop")
    assert answer.usage.completion_tokens == 3
    stream = list(complete(client, "one two three four", stop="thr", stream=True))
    assert "".join(chunk.choices[0].text for chunk in stream) == "one two "
    assert stream[-1].choices[0].finish_reason == "stop"
    assert complete(client, "one two").choices[0].text == "one two"
    assert complete(client, "one two", stop="two x").choices[0].text == "one two"


def test_log_probabilities_are_the_chosen_tokens(client: Client) -> None:
    scores = complete(client, "a b", logprobs=1, temperature=0).choices[0].logprobs
    assert (scores.tokens, scores.token_logprobs, scores.text_offset) == (["a", " b", ""], [-0.125] * 3, [0, 1, 3])
    assert scores.top_logprobs == [{"a": -0.125}, {" b": -0.125}, {"": -0.125}]
    chat = client.chat.completions.create(
        model="model", messages=[{"role": "user", "content": "a"}], logprobs=True, max_tokens=2
    )
    assert [row.token for row in chat.choices[0].logprobs.content] == ["user", " a"]
    assert chat.choices[0].logprobs.content[0].bytes == list(b"user")


def test_a_stream_is_one_chunk_a_token_and_the_usage_where_asked(client: Client) -> None:
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].text for chunk in chunks[:-1]] == ["a", " b", " c", "", ""]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, None, None, "stop"]
    assert chunks[-1].choices == []
    assert counts(chunks[-1]) == (4, 4, 8)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    running = list(complete(client, stream=True, stream_options={"continuous_usage_stats": True}))
    assert [counts(chunk) for chunk in running[:-1]] == [(4, 1, 5), (4, 2, 6), (4, 3, 7), (4, 4, 8)]


def test_a_chat_is_rendered_by_the_template_and_may_stream(client: Client) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    kwargs = {"chat_template_kwargs": {"mood": "glad"}}
    answer = client.chat.completions.create(model="model", messages=messages, extra_body=kwargs)
    assert answer.object == "chat.completion"
    assert (answer.choices[0].message.role, answer.choices[0].message.content) == ("assistant", "user hi glad")
    chunks = list(client.chat.completions.create(model="model", messages=messages, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "user hi"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_the_model_is_listed_by_its_name(client: Client) -> None:
    assert [model.id for model in client.models.list()] == ["model"]
    assert client.models.retrieve("model").owned_by == "dynamometer"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_errors_have_openais_shape(client: Client) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="gpt-4", prompt="a")
    assert unknown.value.code == "model_not_found"
    assert unknown.value.body["message"] == "no model 'gpt-4' here; this server has 'model'"
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, n=2)
    assert (refused.value.type, refused.value.param) == ("invalid_request_error", "n")
    with pytest.raises(openai.BadRequestError) as template:
        client.chat.completions.create(model="model", messages=[{"role": "system", "content": "x"}])
    assert template.value.body["message"] == "messages: the model's chat template refuses them: no system"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="model", input="x")


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/v1/completions", b"{", 400),
        ("/v1/completions", b"x" * 10_001, 413),
        ("/v1/chat/completions", b"[]", 400),
        ("/v1/nothing", b"{}", 404),
        ("/v1/models", b"{}", 405),
    ],
)
def test_every_bad_request_gets_openais_error(
    path: str, data: bytes, status: int, server: tuple[RunningServer, httpx.Client]
) -> None:
    response = server[1].post(path, content=data)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_client_that_leaves_a_stream_frees_the_worker(server: tuple[RunningServer, httpx.Client]) -> None:
    running, http = server
    body = {"prompt": "word " * 1900, "max_tokens": 1900, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as response:
        assert next(response.iter_lines()).startswith("data: ")
    with client_of(running) as client:
        assert complete(client, "a").choices[0].text == "a"
    eventually(lambda: 'dyno_requests_total{code="499"} 1.0' in http.get("/metrics").text)


def test_a_crash_is_an_error_event_in_a_stream_that_has_begun(tmp_path: Path) -> None:
    with fake_server(tmp_path, option__token_ms=20) as (_, http):
        body = {"prompt": "word " * 200, "max_tokens": 200, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as response:
            events = response.iter_lines()
            assert "word" in next(events)
            worker = http.get("/facts").json()["workers"][0]["pid"]
            os.kill(worker, signal.SIGKILL)
            rest = [line for line in events if line.startswith("data: ")]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["error"]["type"] == "server_error"
        assert not is_alive(worker)
        assert (
            http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]}).json()["error"][
                "message"
            ]
            == "the model has no chat template; send the prompt to /v1/completions"
        )


def test_a_full_queue_is_a_503_that_the_client_may_retry(tmp_path: Path) -> None:
    with (
        fake_server(tmp_path, job_queue_size=1) as (running, http),
        client_of(running) as client,
        frozen_worker(running, http) as first,
    ):
        with pytest.raises(openai.InternalServerError) as full:
            complete(client)
        assert full.value.status_code == 503
        assert full.value.code == "QueueFull"
    assert first.result().status_code == 200


def test_a_t5_completes_prompts_and_has_no_chat(tmp_path: Path) -> None:
    path = tmp_path / "serving.properties"
    path.write_text(
        f"option.entryPoint=engines.t5\noption.model_id={BUNDLED}\noption.rolling_batch=auto\nload_on_devices=-1\n"
        "option.threads=1\noption.dtype=fp32\n"
    )
    with launch_file(path, None, tmp_path / "logs", READY_TIMEOUT_S) as running, client_of(running) as client:
        assert complete(client, "spell: 4213", temperature=0).choices[0].text == "four thousand two hundred thirteen"
        stopped = complete(client, "spell: 4213", temperature=0, stop=" hundred")
        assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("four thousand two", "stop")
        both = complete(client, ["spell: 4213", "spell: 4213"], temperature=0, max_tokens=2).choices
        assert [(one.text, one.finish_reason) for one in both] == [("four thousand", "length")] * 2
        with pytest.raises(openai.BadRequestError, match=r"encoder-decoder model \(t5\) has no chat"):
            client.chat.completions.create(model="model", messages=[{"role": "user", "content": "x"}])


def test_the_bundled_decoder_answers_prompts_ids_and_messages_alike(tmp_path: Path) -> None:
    path = tmp_path / "serving.properties"
    path.write_text(
        f"option.entryPoint=engines.transformers\noption.model_id={MODEL}\noption.dtype=fp32\nload_on_devices=-1\n"
    )
    asked = {"temperature": 0, "max_tokens": 32}
    with launch_file(path, None, tmp_path / "logs", READY_TIMEOUT_S) as running, client_of(running) as client:
        whole = complete(client, "spell: 4213\n", **asked, extra_body={"return_token_ids": True})
        chat = client.chat.completions.create(
            model="model", messages=[{"role": "user", "content": "spell: 4213"}], temperature=0
        )
        assert client.models.retrieve("model").root == str(MODEL)
        assert whole.choices[0].text == chat.choices[0].message.content == "four thousand two hundred thirteen"
        assert counts(whole) == counts(chat) == (9, 6, 15)
        stopped = complete(client, "spell: 4213\n", **asked, stop=" hundred", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stopped) == "four thousand two"
        exact = complete(client, "spell: 4213\n", temperature=0, max_tokens=9, extra_body={"ignore_eos": True})
        assert (exact.usage.completion_tokens, exact.choices[0].finish_reason) == (9, "length")
        sampled = [complete(client, "a", max_tokens=12, temperature=4, seed=n).choices[0].text for n in (1, 1, 2)]
        assert sampled[0] == sampled[1] != sampled[2]
        with pytest.raises(openai.BadRequestError, match="the model's context holds 512"):
            complete(client, max_tokens=600)
        with pytest.raises(
            openai.BadRequestError, match="which cannot be 512 tokens, this model's context; shorten it"
        ):
            complete(client, "a " * 150_000)
        with pytest.raises(openai.BadRequestError, match="token id 5000 is outside this model's"):
            complete(client, [5, 5000])
