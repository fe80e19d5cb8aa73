"""The small handler that the recordings were made with: a body says what becomes of its request."""

import json
import os
import time
from pathlib import Path

from djl_python import Output

calls = -1


def handle(inputs):
    global calls
    if inputs.is_empty():
        _load(inputs.get_properties())
        calls = 0
        return None
    batch = inputs.get_batches()
    asked = [_body(item) for item in batch]
    calls += 1
    output = Output()
    first = asked[0]
    if first.get("die"):
        print("Segmentation fault in the engine", flush=True)
        os._exit(11)
    if first.get("raise"):
        raise ValueError("a bad request")
    if "code" in first:
        return Output(first["code"], "said by the handler")
    if "stream" in first:
        output.add_property("Content-Type", "application/jsonlines")
        return output.add_stream_content(_stream(first))
    if "type" in first:
        output.add_property("Content-Type", first["type"])
    if "until" in first:
        _wait(Path(first["until"]))
    time.sleep(max(each.get("seconds", 0) for each in asked))
    for position, each in enumerate(asked):
        answer = {"batch": calls, "size": len(asked), "position": position, "asked": each, "pid": 0}
        output.add_as_json(answer, batch_index=position)
    return output


def _load(properties):
    time.sleep(float(properties.get("load_seconds", 0)))
    if properties.get("load_fails"):
        raise RuntimeError("SpecInvalid: the weights moved")
    if properties.get("load_exits"):
        print("a last word before the end", flush=True)
        os._exit(9)


def _wait(path):
    Path(f"{path}.taken").touch()
    while not path.exists():
        time.sleep(0.01)


def _body(item):
    try:
        return item.get_as_json()
    except ValueError as error:
        return {"unreadable": type(error).__name__}


def _stream(asked):
    for number in range(asked["stream"]):
        if number == asked.get("stream_raises_at"):
            raise RuntimeError("a fault in the stream")
        time.sleep(asked["gap"])
        yield (json.dumps({"token": number}) + "\n").encode()
