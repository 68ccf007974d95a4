# Two commands from a fresh clone: `make train` and `make test`. Both make the virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup train test test-slow docs lint types clean

help:
	@echo "make train      set up, then train AGM on the embedded data set (about a minute)"
	@echo "make test       set up, then lint, types and the test suite"
	@echo "make test-slow  the longer checks"
	@echo "make docs       the documentation as a site, warnings as errors, its examples run"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $@

train: setup
	$(BIN)/gradmod train --dataset av-digits --method agm --shape-every 1 --competition-every 1
	$(BIN)/gradmod attribute
	$(BIN)/gradmod report

test: lint types
	$(BIN)/pytest --numprocesses 2

test-slow: setup
	$(BIN)/pytest --numprocesses 2 -m slow

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs build/docs
	$(BIN)/sphinx-build --fail-on-warning --quiet -b doctest docs build/doctest
	@echo "the site: build/docs/index.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
