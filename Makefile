# Everything a user or CI types. Needs: Python 3.11+, g++, make. No GPU, no account.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help quickstart install test lint format bench-engines bench-load bench-gpu bench-gate clean

help:                ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

quickstart: install  ## venv, install, native build, then tune the bundled T5 on four engines
	$(BIN)/dyno tune scenarios/quickstart.yaml

install: $(VENV)/.installed  ## venv with every engine the quickstart uses, and the native library

# torch goes first and alone, so that pip settles on the pinned build before anything else asks for it.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	@touch $@

# The native library is built in build/, not by pip: an editable install would do it among the sources.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt $(wildcard kernels/CMakeLists.txt)
	$(PIP) install --quiet --constraint constraints.txt "scikit-build-core>=0.10" "cmake>=3.20"
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --config-settings wheel.cmake=false --editable ".[quickstart,dev]"
	$(BIN)/cmake -S kernels -B build/native -DT5K_INPLACE=ON > /dev/null
	$(BIN)/cmake --build build/native --parallel $$(nproc) > /dev/null
	@touch $@

# DeepSpeed's conformance and OpenVINO's int8 run in environments of their own, which share the venv's torch.
$(VENV)/.engines: $(VENV)/.installed $(wildcard engines/environments/*.txt)
	DYNO_CACHE=$(CURDIR)/.dyno-cache $(BIN)/dyno engine install deepspeed
	DYNO_CACHE=$(CURDIR)/.dyno-cache $(BIN)/dyno engine install openvino
	@touch $@

test: $(VENV)/.engines  ## everything CI runs: format, lint, types, import contracts, tests
	@BIN=$(BIN) .ci/checks

lint: install        ## only the static checks
	@BIN=$(BIN) .ci/checks static

format: install      ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-engines: install  ## our T5 engine beside its rivals on this CPU: same ids, interleaved medians
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python tests/bench/engines/bench_engines.py $(BENCH)

bench-gpu: install   ## kernels and engines on a GPU: bandwidth of each kernel, tokens/s, flan-t5-xxl beside its rivals
	$(BIN)/python tests/bench/engines/bench_gpu.py $(BENCH)

bench-load: install  ## load generators against one C server: rate, timing error (BENCH='--rounds 5')
	$(BIN)/python tests/bench/load/bench_load.py $(BENCH)

bench-gate: install  ## how often dyno gate errs on real runs: 300 A/A pairs, power for 5 % of p50 and 10 % of p99
	$(BIN)/python -m tests.bench.gate.gate_calibration $(BENCH)

clean:               ## remove the venv and build products (results stay)
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
	find engines -name '*.so' -delete
