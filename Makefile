# Every target makes .venv first if it is missing or the lock file has changed.
PYTHON ?= python3.11
BIN := .venv/bin
SCALE ?= mini
OPTIONS := scale=$(SCALE) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(JOBS),jobs=$(JOBS)) $(if $(DEVICE),device=$(DEVICE))
.PHONY: setup test lint reproduce clean help
.DEFAULT_GOAL := help

.venv/.stamp: requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.14.1 torchvision==0.29.1
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

setup: .venv/.stamp  ## make the virtual environment
test: .venv/.stamp  ## run the tests
	$(BIN)/python -m pytest
lint: .venv/.stamp  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
reproduce: .venv/.stamp  ## grokking, then Figure 2
	$(BIN)/python scripts/reproduce.py grokking figure2 $(OPTIONS)
reproduce-%: .venv/.stamp  ## one artefact, e.g. reproduce-figure2 SCALE=paper
	$(BIN)/python scripts/reproduce.py $* $(OPTIONS)
clean:  ## remove caches and build output; keeps runs/ and data/
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
help:  ## this list
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16
