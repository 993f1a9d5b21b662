SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --silent --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Neither belongs into the virtual environment's Python.
unexport PYTHONHOME PYTHONPATH

BIN := .venv/bin
PY := $(BIN)/python
STAMP := .venv/.complete
DISTRIBUTIONS := pyproject.toml clients/python/pyproject.toml VERSION
NODE_LOCKS := clients/typescript/package-lock.json tests/clients/package-lock.json

PYTEST := $(PY) -m pytest -n auto --dist worksteal
WITH_COVERAGE := --cov --cov-report=term --cov-report=json:coverage.json

.PHONY: help
help: ## Show this list
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with everything in it; every other target does it first

# A virtual environment whose Python is gone counts as none.
ifeq ($(wildcard $(PY)),)
.PHONY: $(STAMP)
endif
$(STAMP): requirements.lock $(DISTRIBUTIONS) scripts/setup.sh $(NODE_LOCKS)
	scripts/setup.sh
	touch $@

.PHONY: lock
lock: setup ## Pin all dependencies again (UPGRADE=1: those of Python at their newest versions)
	$(BIN)/uv --quiet pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url \
		--no-emit-package cloutagent --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) \
		--group dev --output-file requirements.lock pyproject.toml clients/python/pyproject.toml > /dev/null
	for lock in $(NODE_LOCKS); do \
		npm install --prefix $${lock%/*} --package-lock-only --ignore-scripts --no-audit --no-fund --loglevel=error > /dev/null; \
	done

.PHONY: generate
generate: setup ## Generate from protos/, the settings class and the clients' comments, and the blocking client from the one for asyncio
	$(PY) -m scripts.generate_protos
	$(PY) -m scripts.generate_typescript
	$(PY) -m scripts.generate_configuration
	$(PY) -m scripts.generate_openapi
	$(PY) -m scripts.generate_sync_client
	$(PY) -m scripts.generate_reference

.PHONY: proto-baseline
proto-baseline: setup ## Make the protos as they are the baseline for `buf breaking`
	$(PY) -m scripts.check_protos --write-baseline

.PHONY: pictures
pictures: setup ## Make the pictures of the command line in docs/pictures again
	$(PY) -m scripts.pictures

.PHONY: format
format: setup ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --quiet --fix || true
	$(BIN)/ruff format --quiet
	cd clients/typescript && npm run --silent format > /dev/null

.PHONY: lint
lint: setup ## Check style and format (ruff)
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --quiet --check

.PHONY: typecheck
typecheck: setup ## Check types (mypy, strict)
	$(BIN)/mypy --num-workers 2 --no-error-summary

.PHONY: imports
imports: setup ## Check that imports go down the layers only (import-linter)
	report=$$($(BIN)/lint-imports) || { echo "$$report"; exit 1; }

.PHONY: proto-check
proto-check: setup ## Check the protos: buf lint, buf breaking, generated code fresh
	$(PY) -m scripts.check_protos

.PHONY: typescript-check
typescript-check: setup ## Check types and style of the TypeScript client (tsc, biome)
	cd clients/typescript && report=$$(npm run --silent check 2>&1) || { echo "$$report"; exit 1; }

.PHONY: check
check: lint typecheck imports proto-check typescript-check ## Run all of the checks above

.PHONY: chromium
chromium:
	scripts/install_chromium.sh

.PHONY: test
test: chromium check ## Check, then run the tests in their bounded form, with the coverage gate
	$(PYTEST) -m 'not full' $(WITH_COVERAGE)
	$(PY) -m scripts.coverage_gate coverage.json

.PHONY: test-all
test-all: chromium check ## Check, then run every test at full size, with the coverage gate
	$(PYTEST) $(WITH_COVERAGE)
	$(PY) -m scripts.coverage_gate coverage.json

.PHONY: test-unit
test-unit: setup ## Run the unit and conformance tests alone
	$(PYTEST) -m 'not full' tests/unit tests/conformance

.PHONY: test-faults
test-faults: setup ## Kill, refuse, cut the power and race at full size; says how much was tried and lost
	$(PYTEST) tests/faults

.PHONY: dist
dist: setup ## Build wheels, sdists and the npm package into dist/, the same bytes from the same commit
	$(PY) -m scripts.packaging.build

.PHONY: smoke
smoke: dist ## Install them into empty environments and try them there
	$(PY) -m scripts.packaging.smoke

.PHONY: bench-storage
bench-storage: setup ## Measure the store with 10, 1,000 and 100,000 projects (some minutes); fails when a target is missed
	$(PY) -m benchmarks

.PHONY: bench-executions
bench-executions: setup ## Measure executions, their watchers and the gateway (some minutes); fails when a target is missed
	$(PY) -m benchmarks.executions

.PHONY: bench-rest
bench-rest: setup ## Measure a GET through Envoy against gRPC direct and a FastAPI service (some minutes)
	$(PY) -m benchmarks.rest

.PHONY: bench-clients
bench-clients: setup ## Measure what the clients add to bare stubs (some minutes); fails when a target is missed
	$(PY) -m benchmarks.clients

.PHONY: demo
demo: setup ## Show the whole product at work, with no account (LIVE=1: against the vendor)
	$(PY) -m scripts.demo $(if $(LIVE),--live)

.PHONY: run
run: setup ## Run server and Envoy until Ctrl-C, with the local model (LIVE=1: against the vendor)
	$(BIN)/cloutagent-server up $(if $(LIVE),,--local-model --scripts examples)

.PHONY: example
example: setup ## Run an example against `make run`: NAME=support_assistant, data_analyst, researcher, …
	$(PY) -m examples.$(subst -,_,$(NAME)).main

.PHONY: develop
develop: setup ## The same, started again whenever sources or protos change
	$(PY) -m scripts.develop

.PHONY: validate-env
validate-env: setup ## Check the settings in the environment and .env
	scripts/validate-env.sh

.PHONY: clean
clean: ## Remove .venv, caches and reports; data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache coverage.json \
		dist clients/python/dist .coverage .coverage.* tests/clients/node_modules \
		clients/typescript/dist clients/typescript/node_modules clients/typescript/build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
