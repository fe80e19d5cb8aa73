"""The Python worker of the stand-in: model.py of a folder, asked over a pipe.

worker.py FOLDER ENTRY_POINT FILE_DESCRIPTOR: takes (properties, requests) and gives (code, message, properties,
content); of a stream, content is None and its pieces follow, then an end with the fault's text or nothing.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), sys.argv[1]]
from djl_python import Input, Output  # noqa: E402


def main() -> None:
    folder, entry, link = Path(sys.argv[1]), sys.argv[2], Connection(int(sys.argv[3]))
    if not (folder / entry).is_file():
        raise ValueError(f"entry-point file not found {folder / entry}.")
    found = importlib.util.spec_from_file_location("model", folder / entry)
    model = importlib.util.module_from_spec(found)
    found.loader.exec_module(model)
    while True:
        try:
            properties, requests = link.recv()
        except EOFError:
            return
        output = answer(model, Input(requests, {**properties, "model_dir": str(folder), "device_id": "-1"}))
        link.send((output.code, output.message, output.properties, None if output.stream else output.content))
        if output.stream:
            stream(output, link)


def answer(model: Any, inputs: Input) -> Output:
    try:
        return model.handle(inputs) or Output(204, "No content")
    except Exception as error:
        traceback.print_exc()
        return Output().error(str(error))


def stream(output: Output, link: Connection) -> None:
    try:
        for piece in output.stream:
            link.send(piece)
        link.send("")
    except Exception as error:
        link.send(str(error))


if __name__ == "__main__":
    main()
