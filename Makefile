# Needs python3 (3.11 to 3.13), git and make. Everything else goes into .venv, from requirements.lock, with hashes.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# The environment is as old as the files it was made from: another lock or another pyproject.toml, another stamp.
STAMP := $(VENV)/.synced-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DO_NOT_TRACK := 1
# Without its bytecode cache, Python compiles torch anew in every process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo flow test test-slow test-core coverage check pages docs lock clean
help:  ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## */\t/' | expand -t 14

setup: $(STAMP)  ## make the environment in .venv
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]} found, want 3.11 to 3.13: make PYTHON=python3.12 ...")'
	@echo "environment: $(VENV) (a few GB, once)"
	@test -x $(VENV)/bin/uv || { $(PYTHON) -m venv $(VENV) && $(RUN) -m pip install --quiet --disable-pip-version-check uv; }
	@$(VENV)/bin/uv pip sync --python $(RUN) --require-hashes requirements.lock
	@# The command temper; the line above removes what the lock does not name.
	@$(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.synced-* && touch $@

demo: setup  ## run the whole pipeline on params.yaml and print the result
	@git rev-parse --git-dir >/dev/null 2>&1 || grep -qs no_scm .dvc/config .dvc/config.local || \
		{ echo "error: no Git repository here, which DVC wants (git init, or without Git: dvc config core.no_scm true)" >&2; exit 2; }
	@TEMPER_TRACKING=$${TEMPER_TRACKING:-later} dvc repro; code=$$?; [ "$$TEMPER_TRACKING" = off ] || temper records send; exit $$code
	@temper report

flow: setup  ## the same as a Prefect flow
	@temper harden

# A file of tests stays in one process, since its tests share fixtures; two processes where there are two cores.
PYTEST := $(RUN) -m pytest --numprocesses auto --dist loadfile

test: setup  ## the tests (CPU, no network, minutes)
	@$(PYTEST) -m "not slow and not gpu"

test-slow: setup  ## the slower tests alone
	@$(PYTEST) -m "slow and not gpu"

# The oldest versions that pyproject.toml allows, without Prefect, MLflow and DVC: what a GPU machine may have.
test-core: setup  ## attacks, training steps and a toy GPU run with the core alone, in its oldest versions
	@test -x .venv-core/bin/python || $(PYTHON) -m venv .venv-core
	@$(VENV)/bin/uv pip install --quiet --python .venv-core/bin/python --resolution lowest-direct -r pyproject.toml \
		--extra data "pytest>=8.4" "pytest-timeout>=2.4" "jinja2>=3.1"
	@.venv-core/bin/python -m pytest -m "not slow and not gpu" tests/attacks/test_attacks.py tests/training/test_golden_steps.py
	@.venv-core/bin/python -m temper --version
	@.venv-core/bin/python benchmarks/gpu_programme.py --toy --seconds 300 --only smoke --work .temper/core --results .temper/core/results

coverage: setup  ## what `make test` does, with the share of lines that it executes; fails under the floor
	@$(PYTEST) -m "not slow and not gpu" --cov --cov-report=term:skip-covered

check: setup  ## lint and types
	@ruff check . && ruff format --check . && pyright && yamllint --strict .

pages: setup  ## write the pages that are generated from the code
	@temper params schema > docs/parameters.md && $(RUN) -m temper.help > docs/command.md
	@temper params schema --json > pipelines/parameters/params.schema.json
	@$(RUN) -m temper.documents docs/schemas

docs: setup  ## the pages of docs/ as a site in .temper/site; a warning is an error
	@NO_MKDOCS_2_WARNING=1 mkdocs build --quiet && echo .temper/site/index.html

# Versions stay as they are locked, since numbers depend on some of them: UPGRADE="prefect dvc" names what may move.
lock: setup  ## resolve pyproject.toml into requirements.lock; UPGRADE="NAME ..." takes the newest of these packages
	@$(VENV)/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet \
		$(UPGRADE:%=--upgrade-package %) -o requirements.lock

clean:  ## remove resume state, records and caches; data, models and results stay
	@rm -rf .temper .pytest_cache .ruff_cache && find . -name __pycache__ -not -path './$(VENV)/*' -exec rm -rf {} +
