# Everything a user or CI types. Needs: Python 3.11+, g++, make. No GPU, no account.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# Where torch comes from; empty: pip's own index. pytorch.org names the URL of the build without CUDA.
TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart quickstart-decoder install check test lint format test-models bench-engines bench-decoders bench-djl bench-load bench-lengths bench-server bench-scrape bench-limits bench-prefix bench-tools bench-gpu bench-gate bench-tuner bench-landscapes bench-machines clean

help:                ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

quickstart: install  ## venv, install, native build, then tune the bundled T5 on four engines
	$(BIN)/dyno tune scenarios/quickstart.yaml

quickstart-decoder: install  ## the bundled decoder-only model on vLLM, llama.cpp and three more; vLLM is 2.3 GB more
	@echo "vLLM's CPU build gets an environment of its own, once: 2.3 GB, about 3 minutes (in DYNO_CACHE, else ~/.cache)."
	@$(BIN)/dyno engine install vllm || echo "vLLM is not installed: it is left out of the search"
	$(BIN)/dyno tune scenarios/quickstart-decoder.yaml

install: $(VENV)/.native  ## venv with every engine the quickstart uses, and the native library

# torch goes first and alone, so that pip settles on the pinned build before anything else asks for it.
$(VENV)/.torch: constraints.txt
	@echo "Downloads Python packages: about 1 GB with torch's CPU build; 4 to 5 GB, ten minutes, where the index serves"
	@echo "torch's CUDA build. Without a GPU: make $(or $(MAKECMDGOALS),install) TORCH_INDEX=URL (pytorch.org names it for pip, CPU)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt "scikit-build-core>=0.10" "cmake>=3.20"
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --config-settings wheel.cmake=false --editable ".[quickstart,dev]"
	@touch $@

# The native library is built in build/, not by pip: an editable install would do it among the sources.
$(VENV)/.native: $(VENV)/.installed $(shell find kernels -type f -not -name '*.md')
	$(BIN)/cmake -S kernels -B build/native -DT5K_INPLACE=ON > /dev/null
	$(BIN)/cmake --build build/native --parallel $$(nproc) > /dev/null
	@touch $@

# DeepSpeed, OpenVINO's int8 and transformers' server run in environments of their own, which share the venv's torch.
$(VENV)/.engines: $(VENV)/.native $(wildcard engines/environments/*.txt)
	DYNO_CACHE=$(CURDIR)/.dyno-cache $(BIN)/dyno engine install deepspeed
	DYNO_CACHE=$(CURDIR)/.dyno-cache $(BIN)/dyno engine install openvino
	DYNO_CACHE=$(CURDIR)/.dyno-cache $(BIN)/dyno engine install transformers_serve
	@touch $@

check: install       ## before a commit, two minutes: static checks, and every test that needs nothing but Python
	@BIN=$(BIN) .ci/checks format lint contracts workflows types+quick

test: $(VENV)/.engines  ## everything CI runs, 20 to 40 minutes: static checks over all files, all tests
	@BIN=$(BIN) .ci/checks hooks tests

test-models: install ## the real vLLM: installs it (2.3 GB, 3 minutes; DYNO_CACHE or ~/.cache), then 4 starts of it
	$(BIN)/dyno engine install vllm
	$(BIN)/python -m pytest -n 0 -rfE tests/conformance/test_vllm_server.py

lint: install        ## only the static checks
	@BIN=$(BIN) .ci/checks format lint types contracts workflows

format: install      ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-engines: install  ## our T5 engine beside its rivals on this CPU: same ids, interleaved medians
	$(BIN)/dyno engine install openvino
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python -m tests.bench.engines.bench_engines $(BENCH)

bench-lengths: install  ## long inputs and answers: ours beside rivals on flan-t5-base, and memory by length
	$(BIN)/python -m tests.bench.engines.bench_lengths $(BENCH)

bench-decoders: install ## six engines on two published decoder-only shapes, 1 and 8 users: 40 to 70 minutes
	$(BIN)/dyno engine install openvino
	$(BIN)/dyno engine install vllm
	$(BIN)/dyno tune scenarios/smollm2-135m-cpu.yaml $(BENCH)
	$(BIN)/dyno tune scenarios/smollm2-135m-cpu.yaml --set name=qwen2-5-0-5b-cpu --set model.shape=qwen2.5-0.5b $(BENCH)

bench-gpu: install   ## kernels and engines on a GPU: bandwidth of each kernel, tokens/s, flan-t5-xxl beside its rivals
	$(BIN)/python -m tests.bench.engines.bench_gpu $(BENCH)

bench-djl: install   ## our handler under DJL's real Python worker beside our own worker (needs DYNO_DJL_WORKER)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.engines.bench_djl $(BENCH)

bench-load: install  ## load generators against one C server: rate, timing error (BENCH='--rounds 5')
	$(BIN)/python tests/bench/load/bench_load.py $(BENCH)

bench-scrape: install ## what asking a server's metrics page costs its throughput: 10 minutes an engine
	$(BIN)/python -m tests.bench.load.bench_scrape $(BENCH)

bench-limits: install ## whether limits planted in vLLM, llama.cpp, our server and the client are named: 5 loads each
	$(BIN)/python -m tests.bench.load.bench_limits $(BENCH)

bench-prefix: install ## TTFT of llama.cpp and vLLM with their prefix cache on and off: smollm2-135m, 1,024 shared tokens
	$(BIN)/python -m tests.bench.load.bench_prefix $(BENCH)

bench-tools: install ## the same load by AIPerf, GuideLLM and ours against one law server, beside the truth
	$(BIN)/python -m tests.bench.load.bench_tools $(BENCH)

bench-server: install ## what our server costs beside the engine, what it carries; LitServe, MMS and DJL beside it
	$(BIN)/python -m tests.bench.server.bench_server $(BENCH)

bench-gate: install  ## how often dyno gate errs on real runs: 300 A/A pairs, power for 5 % of p50 and 10 % of p99
	$(BIN)/python -m tests.bench.gate.gate_calibration $(BENCH)

bench-tuner: install ## the search on six programmed laws, or BENCH='--landscape FOLDER'; pip install -e '.[bench-tuner]' adds SMAC3
	$(BIN)/python -m tests.bench.tuner.bench_tuner $(BENCH)

LANDSCAPE ?= llamacpp
bench-landscapes: install ## every candidate of a space launched twice, for the replay: 40 minutes (LANDSCAPE=t5: an hour)
	@case $(LANDSCAPE) in t5) $(BIN)/dyno engine install openvino;; esac
	$(BIN)/python -m tests.bench.landscapes.record scenarios/landscapes/$(LANDSCAPE).yaml --out results/published/landscapes/$(LANDSCAPE) $(BENCH)

bench-machines: install ## calibration of simulated machines; BENCH='--nodes 2 4 8': the speed-up; BENCH='--kills 50': kill -9
	$(PIP) install -q 'distributed>=2026.8'
	$(BIN)/python -m tests.bench.machines.bench_machines $(BENCH)

clean:               ## remove the venv and build products (results stay)
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
	find engines -name '*.so' -delete
