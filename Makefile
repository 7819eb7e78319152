# Everything here sets itself up: a fresh machine needs Python 3.11 or newer and make.

PYTHON ?= python3
VENV ?= .venv
# Processes that share the tests, and what else pytest is to be told, such as `-k counter`.
WORKERS ?= 2
PYTEST_ARGS ?=
# Which comparisons, and options such as `--repeats 9`; see `python tests/benchmarks --help`.
BENCHMARKS ?=

BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-slow lint bench reference constraints clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.runtime ## run the small grid that ends in a report, on a CPU
	$(BIN)/pipeline run --grid demo

test: lint ## linters, types, layers and the fast tests
	$(PYTEST) -m 'not slow'

# Apart from `test`, since counting lines makes the tests take a third longer.
coverage: $(VENV)/.dev ## the fast tests with the share of lines that they run, at least 90 %
	$(PYTEST) -m 'not slow' --cov --cov-report=term --cov-fail-under=90

test-slow: $(VENV)/.dev ## the tests that kill processes or start clusters, servers and browsers
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow $(PYTEST_ARGS)

lint: $(VENV)/.dev ## style, types and the contract of the layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)-bench/.ready ## time the steps that take the time beside other libraries
	$(VENV)-bench/bin/python tests/benchmarks $(BENCHMARKS)

reference: $(VENV)/.runtime ## write configs/README.md anew, from the code
	$(BIN)/pipeline reference > configs/README.md.new && mv configs/README.md.new configs/README.md

constraints: $(VENV)/.uv ## write constraints.txt anew, from the newest versions that fit
	$(BIN)/uv pip compile pyproject.toml --group dev --python-version 3.11 --upgrade --quiet \
		--no-header --no-annotate -o constraints.txt

clean: ## remove what these targets made, but not the store or the reports
	rm -rf $(VENV) $(VENV)-bench .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .grimp_cache .import_linter_cache
	find pipeline tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# uv resolves and installs in seconds. It lives in the environment it serves. Bytecode is written
# at once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each process would compile
# all that it imports, Ray's workers too.
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python
$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is older than 3.11: make PYTHON=python3.12, for one")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@touch $@

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/.uv
	$(INSTALL) $(BIN)/python --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.uv
	$(INSTALL) $(BIN)/python --constraint constraints.txt --editable . --group dev
	@touch $@ $(VENV)/.runtime

# An environment of its own: the newest torchattacks asks for a version of requests that MLflow
# cannot use, so it comes without what it asks for.
$(VENV)-bench/.ready: pyproject.toml constraints.txt tests/benchmarks/peers.txt | $(VENV)/.uv
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)-bench
	$(INSTALL) $(VENV)-bench/bin/python --constraint constraints.txt --editable .
	$(INSTALL) $(VENV)-bench/bin/python --no-deps torchattacks==3.5.1
	$(INSTALL) $(VENV)-bench/bin/python --requirement tests/benchmarks/peers.txt
	@touch $@
