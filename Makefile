# `make demo` and `make test` need Python 3.11 or newer and make; everything else they set up themselves.

PYTHON ?= python3
DEMO := demo
WORKERS ?= 2
SLOW_WORKERS ?= 4
# Hundreds of processes of `hybrid` are started by the tests: compiled once, not anew in each, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := HYBRID_TEST_STRICT=$(STRICT) .venv-test/bin/python -m pytest -q

.PHONY: help demo test ollama check lint bench gpu-check lock clean

help:
	@echo "make demo          run the main job on a small real model, grade it, draw the report"
	@echo "make test          every test that this machine can run; STRICT=1 turns skips into failures"
	@echo "make ollama        build the Ollama server that some tests need (Go, a C++ compiler; minutes the first time)"
	@echo "make check         lint, types, import contracts and the fast tests; make lint: without the tests"
	@echo "make bench NAME=x  run benchmarks/x.py; its last line is one JSON object"
	@echo "make gpu-check      what only an NVIDIA GPU can confirm, with PYTHON=python3.12 on Linux; gpu-check.jsonl has it"
	@echo "make lock          write the pinned requirement files anew from requirements/*.in"
	@echo "make clean         remove the environments, caches and the demo's results"
	@echo "PYTHON=python3.12  chooses the Python that the environments are made with"

# An environment is a venv with the pinned packages of one requirement file. Its stamp names that file's content, so a
# changed file makes a new environment and an unchanged one costs nothing, whatever git does to the file's time.
define environment
	@$(PYTHON) requirements/environment.py $(1) requirements/$(2).txt
endef

# Six small tasks in up to six views each: about a minute on two cores.
demo:
	$(call environment,.venv-demo,demo)
	@.venv-demo/bin/hybrid run local seal-eval --folder $(DEMO)/folder -o $(DEMO)/outputs.json --preset demo --shard-seconds 15
	@.venv-demo/bin/hybrid grade $(DEMO)/outputs.json --grader arc
	@.venv-demo/bin/hybrid report $(DEMO)/outputs.json -o $(DEMO)/report.html

# The slow tests wait much of the time, for processes, servers and clocks: two processes more than for the fast ones.
# What takes minutes to start is started in one of them (ONE_PROCESS in tests/conftest.py).
test:
	$(call environment,.venv-test,test)
	@status=0; \
	$(PYTEST) --durations=10 -n $(WORKERS) -m "not slow" || status=1; \
	$(PYTEST) --durations=20 -n $(SLOW_WORKERS) --dist=loadgroup -m slow || status=1; \
	exit $$status

# A real server for the tests, where there is none on PATH. Tests that need it skip without one.
ollama:
	@$(PYTHON) requirements/ollama.py .ollama

check: lint
	@$(PYTEST) -n $(WORKERS) -m "not slow"

lint:
	$(call environment,.venv-test,test)
	@.venv-test/bin/ruff check .
	@.venv-test/bin/ruff format --check .
	@.venv-test/bin/mypy
	@.venv-test/bin/mypy benchmarks
	@.venv-test/bin/lint-imports

bench:
	@test -f "benchmarks/$(NAME).py" || { echo "error: make bench NAME=x, with x one of:" \
	    $(notdir $(basename $(wildcard benchmarks/*.py))) >&2; exit 2; }
	$(call environment,.venv-test,test)
	@.venv-test/bin/python benchmarks/$(NAME).py $(ARGS)

# PEFT, a peer of one check, is not among the packages of a GPU machine: with its pin of the tests.
gpu-check:
	$(call environment,.venv-gpu,gpu)
	@sed -n '/^peft==/,/[^\\]$$/p' requirements/test.txt > .venv-gpu/peft.txt
	@.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv-gpu/peft.txt
	@.venv-gpu/bin/python benchmarks/gpu_check.py -o gpu-check.jsonl

UV = ../.venv-lock/bin/uv pip compile --config-file uv.toml --upgrade --quiet --generate-hashes \
     --no-header --no-annotate --no-emit-index-url --no-emit-find-links

lock:
	$(call environment,.venv-lock,lock)
	cd requirements && $(UV) --universal --python-version 3.11 lock.in -o lock.txt
	cd requirements && $(UV) --universal --python-version 3.11 demo.in -o demo.txt
	cd requirements && $(UV) --universal --python-version 3.11 --override overrides.txt test.in -o test.txt
	cd requirements && $(UV) --universal --python-version 3.11 ollama.in -o ollama.txt
	cd requirements && $(UV) --python-version 3.12 --python-platform x86_64-manylinux_2_28 gpu.in -o gpu.txt
	cd requirements && ../.venv-lock/bin/python pins.py ../.venv-lock/bin/uv

clean:
	rm -rf .venv-demo .venv-test .venv-gpu .venv-lock gpu-check.jsonl .ollama $(DEMO) build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
