# The one table of commands; `make help` prints it. Every command sets up what it needs: Python 3.11 or newer, git and make
# are enough. Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
DATASET ?= digits
IPC ?= 1
FAULTS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCHMARKS := dm_step family_step second_order_step clustering api_load api_memory service_overhead upload ingest own_dataset
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check e2e recipes stats faults bench clean

help: ## show this table
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## run one job from start to finish; DATASET=fashion-mnist IPC=10 choose another
	$(BIN)/distill demo --dataset '$(DATASET)' --ipc '$(IPC)'

test: $(STAMP) ## run the unit and integration tests, a job over HTTP, and one statistical claim
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

check: $(STAMP) ## lint, types, and whether the migrations match the models
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m migrations check

e2e: $(STAMP) ## run whole jobs as users do and as workers do, the demo and the README's commands among them; minutes
	$(BIN)/python -m pytest tests/e2e tests/child --numprocesses 2 --dist worksteal

recipes: $(STAMP) ## run every recipe as a job over HTTP; minutes
	$(BIN)/python -m pytest tests/recipes

stats: $(STAMP) ## run the statistical tests on real data; minutes to hours
	$(BIN)/python -m pytest tests/statistical

faults: $(STAMP) ## kill, freeze and cut off real processes and servers; half an hour. FAULTS='not long': minutes
	$(BIN)/python -m pytest tests/faults -m '$(FAULTS)'
	$(if $(FAULTS),,$(BIN)/python -m tests.faults.soak)

bench: $(STAMP) ## measure speed against plain implementations
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m tests.benchmarks.$$name || exit 1; done

clean: ## remove the environment and every cache; results in demo-output stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find api core worker migrations tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and alone: this keeps a build that pip is configured for (for example a CPU build); the rest is quick.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV); the first time this takes a few minutes"
	$(PIP) 'torch>=2.11,<2.14'
	$(PIP) -e '.[dev]'
	@touch $@
