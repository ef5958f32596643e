# make run: install into .venv, fetch the default model, answer a prompt.   make test: everything that CI runs.
# Nothing is needed but Python 3.11+, pip and a C++20 compiler; cmake and ninja come from the package registry.

PYTHON ?= python3
MODEL ?= smollm2
PROMPT ?= Why is the sky blue? Answer in two sentences.
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := CMakeLists.txt $(wildcard src/native/*.*)

# Python keeps what it has compiled, whatever the shell asks for: tests start `ridgeline` some hundred times.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint unit test-isa goldens accuracy clean

run: $(VENV)/.installed
	$(BIN)/ridgeline pull $(MODEL)
	$(BIN)/ridgeline run $(MODEL) "$(PROMPT)" --temperature 0 --max-tokens 128

test: lint unit

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes where there are two cores (tests/conftest.py).
unit: $(VENV)/.test-installed
	$(BIN)/python -m pytest -n auto --dist loadfile

# The kernels of AVX-512 and AMX, emulated with AVX2 (src/native/emulated/): for CPUs that have neither.
# TESTS: what pytest is asked for, another file or a single test.
TESTS ?= tests/parity tests/golden -k 'avx512 or amx'
test-isa: build/emulated/.built
	PYTHONPATH=tests $(BIN)/python -m pytest -p emulated $(TESTS)

build/emulated/.built: $(VENV)/.test-installed $(SOURCES) $(wildcard src/native/emulated/*)
	@$(BIN)/python -c 'from ridgeline.backends.cpu.executor import choose_isa; choose_isa("avx2")' 2>/dev/null \
	  || $(call fail,this CPU has no AVX2 to emulate AVX-512 and AMX with)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/emulated -G Ninja -DCMAKE_BUILD_TYPE=Release -DRIDGELINE_EMULATE=ON \
	  -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
	$(BIN)/cmake --build build/emulated
	@touch $@

# docs/accuracy.md: predictions beside what others have measured, and beside our own engine, here and now.
accuracy: $(VENV)/.installed
	$(BIN)/python benchmarks/accuracy.py --live

# Golden logits are made by transformers on torch: only to regenerate them, in an environment of its own.
goldens: build/goldens/.installed
	build/goldens/bin/python tests/golden/make_checkpoints.py

build/goldens/.installed: tests/golden/requirements.txt
	$(PYTHON) -m venv --without-pip build/goldens
	$(PYTHON) -m pip --python build/goldens/bin/python install --quiet --disable-pip-version-check -r $<
	@touch $@

# What is missing is said in one line, before pip and cmake say it in a hundred.
fail = { echo "make: $(1)" >&2; exit 1; }

# Without pip's own bootstrap, so that Debian's python3 serves without its venv package.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || $(call fail,$(PYTHON) is not Python 3.11 or later; name one that is: make PYTHON=python3.12)
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || $(call fail,$(PYTHON) has no pip; on Debian: apt install python3-pip)
	$(PYTHON) -m venv --without-pip $(VENV)

# The tools of the build lie in the environment too: in one of pip's throwaway ones, every build would start anew.
$(VENV)/.tools: pyproject.toml | $(VENV)/bin/python
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check 'pip>=25.1'
	$(INSTALL) --group build
	@touch $@

$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	@for c in $(CXX) c++ g++ clang++; do command -v $$c >/dev/null && exit; done; \
	  $(call fail,there is no C++ compiler; on Debian: apt install g++)
	@$(BIN)/python -c 'import pathlib, sysconfig as s; pathlib.Path(s.get_path("include"), "Python.h").stat()' 2>/dev/null \
	  || $(call fail,$(PYTHON) has no Python.h; on Debian: apt install python3-dev)
	@echo "installing ridgeline and compiling its kernels: some minutes the first time"
	$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(INSTALL) --group test
	@touch $@

clean:
	rm -rf $(VENV) build dist
