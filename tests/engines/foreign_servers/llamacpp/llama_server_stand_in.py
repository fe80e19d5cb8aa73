"""A `llama-server` made of the wheel: takes the program's flags, as its manual has them, and runs the same server."""

from __future__ import annotations

import signal
import sys

import xllamacpp

NUMBERS = {
    "--port": "port", "--ctx-size": "n_ctx", "--parallel": "n_parallel", "--threads": "cpuparams.n_threads",
    "--threads-batch": "cpuparams_batch.n_threads", "--threads-http": "n_threads_http", "--cache-ram": "cache_ram_mib",
    "--batch-size": "n_batch",
}  # fmt: skip
SWITCHES = {"--metrics": ("endpoint_metrics", True), "--no-cache-prompt": ("cache_prompt", False),
            "--no-cont-batching": ("cont_batching", False)}  # fmt: skip


def main(arguments: list[str]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    parameters = xllamacpp.CommonParams()
    while arguments:
        name = arguments.pop(0)
        if name in SWITCHES:
            setattr(parameters, *SWITCHES[name])
        elif name in NUMBERS:
            folder, _, last = NUMBERS[name].rpartition(".")
            setattr(getattr(parameters, folder) if folder else parameters, last, int(arguments.pop(0)))
        elif name in ("--cache-type-k", "--cache-type-v"):
            kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{arguments.pop(0).upper()}")
            setattr(parameters, name[2:].replace("-", "_"), kind)
        elif name == "--flash-attn":
            word = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}[arguments.pop(0)]
            parameters.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{word}")
        elif name == "--model":
            parameters.model.path = arguments.pop(0)
        elif name == "--alias":
            parameters.model_alias = {arguments.pop(0)}
        elif name == "--host":
            parameters.hostnames = [arguments.pop(0)]
        else:
            sys.exit(f"error: invalid argument: {name}")
    server = xllamacpp.Server(parameters)
    signal.sigwait((signal.SIGTERM,))
    del server


if __name__ == "__main__":
    main(sys.argv[1:])
