# `make help` lists the targets. Everything runs in a virtual environment of this folder, made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Three files run at a time: tests with Ray or S3 wait for a third of their time, and two would leave cores idle. One thread for each
# product: threads that wait for one another cost more than they bring.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
# Ray looks for these before it talks to anything outside.
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long chaos scale bench check format clean mutants

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## Install dnafeat with the pinned versions of constraints.txt into .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dnafeat needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[jobs,dev]'
	@touch $@

demo: setup  ## Fine-tune on bundled sequences, embed them into ./demo-store, look at the result
	@$(BIN)/dnafeat demo --store demo-store

test: setup  ## Run the tests, three files at a time (13 minutes on 2 cores)
	$(PYTEST)

test-long: setup  ## Run all tests in full counts, those that `make test` leaves out one at a time (an hour)
	DNAFEAT_TESTS=long $(PYTEST)
	DNAFEAT_TESTS=long $(BIN)/python -m pytest -m long

mutants: setup  ## Break the store's protocol in known ways, one at a time, and name those that no test notices (15 minutes)
	$(BIN)/python tests/support/mutants.py

chaos: setup  ## Kill 30 runs at random moments, and try thousands of interleavings with faults (an hour or two)
	DNAFEAT_CHAOS_KILLS=30 DNAFEAT_CHAOS_SEQUENCES=3000 DNAFEAT_PROTOCOL_EXAMPLES=300 $(BIN)/python -m pytest -s --timeout 0 -m '' tests/embed/test_chaos.py tests/embed/test_protocol.py

scale: setup  ## Two nights of SCALE_ENTRIES made-up entries (50 million; 60 GB in SCALE_FOLDER, an hour), stage by stage
	$(BIN)/python tests/support/scale.py --entries $(or $(SCALE_ENTRIES),50000000) --folder $(or $(SCALE_FOLDER),scale-store)

bench: setup  ## Measure speed beside limits and peers, print the table, write bench.json (40 minutes; minutes with BENCH=--quick)
	$(BIN)/python jobs/benchmark.py $(BENCH)

check: setup  ## Check format, lint, types and which package imports which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup  ## Format and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the virtual environment, the demo store and caches
	rm -rf $(VENV) demo-store demo-store-artifact* scale-store .pytest_cache .mypy_cache .ruff_cache .hypothesis
