# `make demo` and `make test` do all their own set-up: a virtual environment in .venv, and what they need in it.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check --quiet
OUT ?= demo

.PHONY: demo test lint format notebooks bench clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first, and pinned: an open range takes a build with gigabytes of CUDA on some registries
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(VENV)/bin/ablationlens demo --out $(OUT)

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/basedpyright
	$(VENV)/bin/lint-imports --no-logo

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

# runs every tutorial anew and keeps its outputs in it
notebooks: $(VENV)/.installed-dev
	$(VENV)/bin/python tutorials/execute.py

bench: $(VENV)/.installed-dev
	$(VENV)/bin/python benchmarks/throughput.py
	$(VENV)/bin/python benchmarks/least_squares.py
	$(VENV)/bin/python benchmarks/parity.py
	$(VENV)/bin/python benchmarks/accuracy_per_pass.py

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache
