# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0

.DEFAULT_GOAL := help
.PHONY: help style quality test test-slow demo bench upstream-tests

PYTHON ?= python

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

style:  ## Format the code and mend what ruff can mend
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

quality:  ## Check style and types without changing anything
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:  ## Run the tests, without the slow ones
	$(PYTHON) -m pytest -n 2

test-slow:  ## Run the slow tests: full-size networks with random weights
	$(PYTHON) -m pytest -m slow --timeout 600

demo:  ## Segment a photograph with the embedded checkpoint
	$(PYTHON) examples/quickstart.py

bench:  ## Run ten minutes of benchmarks; benchmarks/README.md has all
	$(PYTHON) benchmarks/bench_speed.py --prompts 20 --repeats 1
	$(PYTHON) benchmarks/bench_scaling.py --parts photograph regions references
	$(PYTHON) benchmarks/bench_loss.py
	$(PYTHON) benchmarks/bench_pool.py

upstream-tests:  ## Run transformers' own common tests on a tiny model of ours
	$(PYTHON) tests/upstream/run.py
