# make run: install into .venv, fetch the default model, answer a prompt.   make test: everything that CI runs.
# Nothing is needed but Python 3.11+, pip and a C++20 compiler; cmake and ninja come from the package registry.

PYTHON ?= python3
MODEL ?= smollm2
PROMPT ?= Why is the sky blue? Answer in two sentences.
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(wildcard src/native/*)

.PHONY: run test lint unit goldens clean

run: $(VENV)/.installed
	$(BIN)/ridgeline pull $(MODEL)
	$(BIN)/ridgeline run $(MODEL) "$(PROMPT)" --temperature 0 --max-tokens 128

test: lint unit

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.test-installed
	$(BIN)/python -m pytest

# Golden logits are made by transformers on torch: only to regenerate them, in an environment of its own.
goldens:
	$(PYTHON) -m venv --without-pip .venv-goldens
	$(PYTHON) -m pip --python .venv-goldens/bin/python install --quiet -r tests/golden/requirements.txt
	.venv-goldens/bin/python tests/golden/make_checkpoints.py

# Without pip inside the environment, so that Debian's python3 serves without its venv package.
$(VENV)/bin/python:
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.installed: $(VENV)/bin/python $(SOURCES)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check pip -e .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .venv-goldens build dist
