# Python 3.11 or newer, make and git are all that is needed; everything else comes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo up test lint bench schemas constraints clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ssmd needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@echo "Installing ssmd into $(VENV) (once; about a minute with a warm package cache)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable . --group dev
	@touch $(READY)

demo: $(READY)  ## Capture four venues, archive, build parquet, verify: one table at the end
	@$(BIN)/ssmd demo

up: $(READY)  ## Everything, against the real venues, until Ctrl-C
	@$(BIN)/ssmd up

test: $(READY)  ## All tests, on real servers
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)  ## Format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(READY)  ## Ratios against the alternatives, in one run; writes bench/results.json
	@$(BIN)/python -m bench

schemas: $(READY)  ## Write docs/schemas/ from the registry
	@$(BIN)/ssmd dataset schemas --out docs/schemas

constraints: $(READY)  ## Pin what is installed
	@$(BIN)/python -m pip freeze --exclude-editable | grep -v '^-e ' | sort > constraints.txt

clean:  ## Remove the environment and everything that was captured
	rm -rf $(VENV) .data
