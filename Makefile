# `make` alone lists the commands. Everything happens in .venv, made at the first need.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PY := .venv/bin/python
# Tests at a time. Twice as many as there are CPUs: half of the time the tests wait for the processes they started.
JOBS ?= $(shell $(PY) -c 'import os; print(2 * len(os.sched_getaffinity(0)))')
# What to test: `make test-only T=tests/unit`.
T ?= tests
# Of which images: `make sbom IMAGES=cli`.
IMAGES ?= server agent cli
PYTEST = $(PY) -m pytest -n $(JOBS) --dist worksteal

.PHONY: help
help: ## list these commands
	@echo 'dbward: approval, policy and a tamper-evident record in front of production databases'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  PYTHON=python3.12 chooses the interpreter (3.11 or newer is looked for on PATH).'

.PHONY: setup
setup: .venv/.dev ## make .venv with everything needed to run and develop
	@echo 'ready: .venv/bin/dbward --help'

.venv/.run: pyproject.toml deploy/dev/setup.sh
	@sh deploy/dev/setup.sh run

.venv/.dev: pyproject.toml deploy/dev/setup.sh
	@sh deploy/dev/setup.sh dev

.PHONY: demo
demo: .venv/.run ## see it work: a server, an agent, three people and a sample database
	@$(PY) deploy/demo/demo.py

.PHONY: test
test: .venv/.dev ## all checks and the whole test suite, on real PostgreSQL and MariaDB
	@sh deploy/dev/servers.sh
	@$(MAKE) --no-print-directory lint types imports
	$(PYTEST) $(T)

.PHONY: test-only
test-only: .venv/.dev ## only the tests below T, for example T=tests/unit
	$(PYTEST) $(T)

.PHONY: fuzz
fuzz: .venv/.dev ## hunt for writes that pass for reads: SECONDS=600, SEED=7 for the same again
	@sh deploy/dev/servers.sh
	@$(PY) -m tests.fuzz --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

.PHONY: manifests
manifests: .venv/.dev ## write deploy/kubernetes anew out of the Helm chart
	@sh deploy/dev/servers.sh
	@.venv/tools/bin/python deploy/kubernetes/manifests.py

.PHONY: cli-docs
cli-docs: .venv/.dev ## write the commands in docs/reference/cli.md anew out of the program
	@$(PY) deploy/dev/cli_page.py

.PHONY: lint
lint: .venv/.dev ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.PHONY: format
format: .venv/.dev ## put the code in ruff's format and fix what can be fixed
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: types
types: .venv/.dev ## mypy, strict
	$(PY) -m mypy

.PHONY: imports
imports: .venv/.dev ## import-linter: the layers of the architecture
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

.PHONY: lock
lock: .venv/.dev ## write the lock files of the images; UPGRADE=1 moves on to the newest versions
	$(PY) deploy/docker/lock.py $(if $(UPGRADE),--upgrade)

.PHONY: sbom
sbom: .venv/.dev ## write what the images are made of, as CycloneDX, to dist/sbom
	@mkdir -p dist/sbom
	@for image in $(IMAGES); do \
	    $(PY) -W ignore -m cyclonedx_py requirements deploy/docker/requirements/$$image.txt --pyproject pyproject.toml \
	        --spec-version 1.6 --output-reproducible --output-file dist/sbom/$$image.cdx.json || exit 1; \
	    echo dist/sbom/$$image.cdx.json; \
	done

.PHONY: bench
bench: .venv/.dev ## measure the budgets beside Celery on Redis; writes bench/results.md
	@$(PY) -m bench $(if $(ONLY),--only $(ONLY))

.PHONY: clean
clean: ## remove what the tools leave behind
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## also remove .venv
	rm -rf .venv ./*.egg-info
