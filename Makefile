# Two commands: `make audit` installs and runs the main job, `make test` installs and runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ARGS ?=
# modules that subclass a framework's own callback: importing them needs that framework
FRAMEWORKS = lightning.py transformers.py accelerate.py

.PHONY: audit test slow lint types doctest docs check clean

audit: $(VENV)/.installed
	$(BIN)/tameopt audit $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 $(ARGS)

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow --timeout=3600 $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks

types: $(VENV)/.installed-dev
	$(BIN)/mypy

doctest: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --doctest-modules src/tameopt $(addprefix --ignore=src/tameopt/integrations/,$(FRAMEWORKS))

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

check: test lint types doctest docs

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tameopt needs Python 3.11 or newer: set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[all]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache
