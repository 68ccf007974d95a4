# Two commands from a fresh clone: `make train` and `make test`. Both make the virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup train test test-fast test-wing test-slow docs format lint types clean

help:
	@echo "make train      set up, then train AGM on the embedded data set (about a minute)"
	@echo "make test       set up, then lint, types and the test suite"
	@echo "make test-fast  the mathematics and the methods alone (under a minute)"
	@echo "make test-wing  what goes around a model, and how much of it the tests reach"
	@echo "make test-slow  the longer checks"
	@echo "make format     ruff's fixes and format"
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
	$(BIN)/pytest --numprocesses 2 --dist worksteal

FAST := tests/test_functional.py tests/metrics/test_shape.py tests/metrics/test_competition.py tests/methods/test_agm.py \
	tests/methods/test_agm_golden.py tests/methods/test_ogm_ge.py tests/methods/test_uni_modal.py tests/test_layout.py tests/test_api.py
WING := tests/coalitions tests/diagnosis tests/methods tests/metrics tests/models tests/tasks tests/test_adapters.py tests/test_functional.py \
	tests/test_precision.py tests/test_tasks.py tests/test_wrapper.py

test-fast: setup
	$(BIN)/pytest --numprocesses 2 $(FAST)

test-wing: setup
	$(BIN)/pytest --numprocesses 2 --cov=gradmod --cov-report=term:skip-covered $(WING)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: setup
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m slow

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
