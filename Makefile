# The only door. Everything below needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults test-faults test-versions test-full lint fmt types bench docs lock clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything the other targets need

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dovetail needs Python 3.11 or newer; say which: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@# A process that finds no bytecode compiles all that it imports, each time: a third of a second per relay.
	@$(BIN)/python -m compileall -q schemas sdk relay local
	@touch $@

demo: $(STAMP) ## Run the main job on real servers and print the books
	$(BIN)/dovetail demo $(ARGS)

# Of the tier that breaks things and takes its time a short mix and the wire proof are in `test`, the rest in `test-faults`.
BREAKING := $(filter-out tests/faults/test_mix.py tests/faults/test_wire.py,$(wildcard tests/faults/test_*.py))
test: $(STAMP) ## Run every test tier that Python packages alone can serve, four files at a time
	$(BIN)/python -m pytest -n 4 --dist loadfile $(BREAKING:%=--ignore=%) $(ARGS)

test-faults: $(STAMP) ## Break servers and networks in every way that has a test
	$(BIN)/python -m pytest -n 3 --dist loadfile $(BREAKING) $(ARGS)

# Another mix each time, or the one that SEED names.
SEED ?= $(shell date +%s)
MINUTES ?= 10
faults: $(STAMP) ## Break everything at random for MINUTES, the schedule by SEED, and check the books
	@case '$(MINUTES)' in ''|*[!0-9]*|0) echo "MINUTES=$(MINUTES) is no number of minutes, from 1 on" >&2; exit 2;; esac
	$(BIN)/python -m pytest tests/faults/test_mix.py -rP --fault-seed $(SEED) --fault-seconds $$(( $(MINUTES) * 60 )) $(ARGS)

# Each end of each range that is supported: the oldest servers together, then three brokers with replication 3.
SERVERS := tests/postgres tests/kafka tests/e2e/test_kills.py tests/faults/test_publication.py
test-versions: $(STAMP) ## Run the server tiers and the kills on PostgreSQL 15, Kafka 3.9 and three brokers
	$(BIN)/python -m pytest -n 2 --dist loadfile $(SERVERS) --postgres-version 15 --kafka-version 3.9.1 --kills 20 $(ARGS)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(SERVERS) --brokers 3 --kills 20 $(ARGS)

test-full: $(STAMP) test-faults ## Run the faults, and the tests that need root: full disks, and memory that ends
	$(BIN)/python -m pytest tests/full $(ARGS)

lint: $(STAMP) ## Format check, ruff, import layers, size gate
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python tools/size_gate.py

fmt: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## mypy strict and pyright
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(STAMP) ## Measure on real servers; ARGS="--help" lists the benchmarks
	$(BIN)/python -m bench $(ARGS)

docs: $(STAMP) ## Write the generated parts of docs/reference again
	$(BIN)/python tools/reference.py

lock: $(STAMP) ## Resolve the dependencies again into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --all-extras --group dev pyproject.toml -o requirements.lock

clean: ## Remove what make made
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
