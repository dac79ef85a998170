# Everything runs from a bare clone with Python 3.11 and make.
PYTHON := $(shell command -v python3.11 || command -v python3 || echo python3)
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help up test check lock assets screenshots bench chaos

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: .venv/.installed  ## run Modelport on this machine (PORT=8000, MODELPORT_HOME=~/.modelport)
	@exec $(BIN)/modelport up

test: .venv/.installed-dev  ## all tests, a real engine and a real browser included
	@tests/prepare
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not journey"
	$(BIN)/pytest -m "journey and not slow"

check: .venv/.installed-dev  ## format, lint, types, architecture, migrations, translations, assets
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config importlinter.toml
	$(BIN)/python manage.py makemigrations --check --dry-run
	@tests/check_translations
	@tests/check_assets

assets:  ## rebuild static/dist from frontend/ (needs Node)
	cd frontend && npm ci --no-audit --no-fund && npm run build

screenshots: .venv/.installed-dev  ## the pictures of the README
	$(BIN)/pytest tests/journeys --screenshots

bench: .venv/.installed-dev  ## figures and ratios of the hot path
	$(BIN)/python -m tests.benchmarks.others
	$(BIN)/python -m tests.benchmarks.gateway
	$(BIN)/python -m tests.benchmarks.reconciler
	$(BIN)/python -m tests.benchmarks.ingest

chaos: .venv/.installed-dev  ## a storm of kills, then deploys under load: nothing lost, double or cut
	$(BIN)/python -m tests.storm
	$(BIN)/python -m tests.storm.stripe
	$(BIN)/python -m tests.storm.credit
	MODELPORT_STEPS=10000 $(BIN)/pytest -q -s tests/billing/test_credit_machine.py
	$(BIN)/python -m tests.rolling

lock: .venv/.installed-dev  ## pin the dependencies anew
	$(BIN)/pip-compile $(LOCK) -o requirements.txt pyproject.toml
	$(BIN)/pip-compile $(LOCK) --extra dev -o requirements-dev.txt pyproject.toml
LOCK := -q --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Modelport needs Python 3.11 or newer; this is $$($(PYTHON) --version)."; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)…"
	@$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python requirements.txt pyproject.toml
	@echo "Installing Modelport into .venv…"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
	@PYTHONWARNINGS=ignore $(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	@echo "Installing what the tests need…"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
