# make demo    set up if needed, then the main job on self-made data
# make test    set up if needed, then the tests
# Python 3.11 or newer and make are all that is needed; everything is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
PYTEST_ARGS ?=

.PHONY: help setup demo demo-short test lint docs clean

help:
	@echo "make demo        set up if needed, then prune, export and score a small model on self-made speech"
	@echo "make demo-short  the same in its short form"
	@echo "make test        set up if needed, then the tests (PYTEST_ARGS='-k name' for some of them)"
	@echo "make lint        ruff and mypy"
	@echo "make docs        the pages of docs/ as a site, in site/"
	@echo "make clean       delete the environment"

setup: $(READY)

demo: $(READY)
	$(BIN)/pruned-upstream demo

demo-short: $(READY)
	$(BIN)/pruned-upstream demo --short

# two processes with one thread each: the models are tiny, and threads would only wait for each other
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m mypy

docs: $(READY)
	$(BIN)/python docs/generate.py
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV)

# Versions are pinned one by one, so that nothing is left to resolve (--no-deps). torch alone is installed with what
# it asks for: its build for a GPU brings the CUDA libraries.
$(READY): constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12 ..."; exit 1; }
	@echo "== environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if command -v nvidia-smi > /dev/null 2>&1 && nvidia-smi -L > /dev/null 2>&1; then \
		echo "== torch $(TORCH) for the GPU that is here"; \
		$(PIP) install --quiet -c constraints.txt "torch===$(TORCH)"; \
	else \
		echo "== torch $(TORCH), for CPU alone where such a build is offered"; \
		$(PIP) install --quiet -c constraints.txt "torch==$(TORCH)+cpu" 2> /dev/null \
			|| $(PIP) install --quiet -c constraints.txt "torch==$(TORCH)"; \
	fi
	@echo "== the other packages, as pinned in constraints.txt"
	@$(PIP) install --quiet --no-deps -r constraints.txt
	@echo "== pruned_upstream itself"
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import torchaudio' 2> /dev/null || { \
		echo "== torchaudio's compiled part does not fit this torch and is taken out; it does without"; \
		rm -f $(VENV)/lib/python3*/site-packages/torchaudio/lib/*.so; \
		$(BIN)/python -c 'import torchaudio'; \
	}
	@touch $@
	@echo "== ready; the next call skips this"
