# Everything one does with this checkout; each target sets up what it needs in .venv.

PYTHON ?= python3
PORT ?= 5000
WORKERS ?= auto
DELTALAB_RUNS ?= runs
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-faults test-ranks test-slurm test-servers test-browser test-tritons test-gpu test-latex check docs bench bench-kernels bench-data bench-trainer bench-models bench-orchestration bench-collate dashboard clean

help: ## List the targets
	@echo "Usage: make TARGET [PYTHON=python3.12] [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-19s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## Set up .venv with pinned torch and everything for development

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "make: no $(PYTHON) here; name a Python: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: deltalab needs Python 3.11 or newer, $(PYTHON) is $$("$(PYTHON)" --version 2>&1); try make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: install ## Run a small study from start to table, on a CPU in minutes
	$(BIN)/python launch.py -m study=quickstart
	$(BIN)/python -m analysis.compare quickstart
	@echo "Look at the runs in MLflow: $${MLFLOW_TRACKING_URI:-make dashboard}"

# A worker takes from another what that has not begun, so that none is left with the slow tests.
test: install ## Run the test suite on the CPU, a process per core up to 4 (ARGS="-k plan" goes to pytest, WORKERS=1)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal \
		-m "not faults and not ranks and not slurm and not servers and not browser and not gpu and not ahead" $(ARGS)

test-faults: install ## Run the tests that kill workers and launchers, fill disks and delete folders
	$(BIN)/python -m pytest -rs -n $(WORKERS) --maxprocesses 2 --dist worksteal -m faults tests/dispatch $(ARGS)

test-ranks: install ## Run the tests that train a trial in several processes
	$(BIN)/python -m pytest -rs -m ranks tests/train tests/exchange $(ARGS)

test-slurm: install ## Run the tests on a real Slurm cluster, brought up on this machine (Debian, root)
	SLURM_INSTALL=1 $(BIN)/python -m pytest -rs -m slurm tests/slurm $(ARGS)

test-servers: install ## Run the tests on a real PostgreSQL and MLflow server (installed where root, on Debian)
	SERVERS_INSTALL=1 $(BIN)/python -m pytest -rs -m servers tests/servers $(ARGS)

test-browser: install ## Look at the report and at MLflow in Chromium (installed where root, on Debian); build/screenshots
	BROWSER_INSTALL=1 $(BIN)/python -m pytest -rs -m browser tests/browser $(ARGS)

test-tritons: install ## Compile the Triton kernels without a GPU, with the installed, the oldest and the newest Triton
	for version in installed 3.6.0 3.9.0; do \
		test $$version = installed || test -d .venv/tritons/$$version || $(BIN)/python -m pip install \
			--disable-pip-version-check --no-deps -q --target .venv/tritons/$$version triton==$$version || exit 1; \
		PYTHONPATH=.venv/tritons/$$version $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 2 --dist worksteal \
			-m ahead tests/kernels $(ARGS) || exit 1; \
	done

test-gpu: install ## Run the tests that need a CUDA GPU
	$(BIN)/python -m pytest -rs -m gpu tests $(ARGS)

test-latex: install ## Compile the tables of a report with pdflatex (Debian: texlive-latex-recommended)
	$(BIN)/python -m pytest -rs tests/analysis/test_latex.py $(ARGS)

check: install ## Lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo --no-cache

# No notice of MkDocs 2, which the range in pyproject.toml keeps out.
docs: install ## Build the docs site into build/site; broken links and addresses of other hosts fail it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)
	@echo "Open build/site/index.html, or, to search too: $(BIN)/python -m http.server -b 127.0.0.1 -d build/site"

bench: install ## Time the chunked recurrence against its reference on this CPU
	$(BIN)/python -m benchmarks.chunk_cpu $(ARGS)

bench-kernels: install ## Time the kernels on this GPU beside flash-linear-attention (extra `fla`)
	$(BIN)/python -m benchmarks.kernels $(ARGS)

bench-data: install ## Time preparing and reading texts on this CPU
	$(BIN)/python -m benchmarks.data $(ARGS)

bench-trainer: install ## Time the training loop with and without logging, checkpoints and batches made ahead
	$(BIN)/python -m benchmarks.trainer $(ARGS)

bench-models: install ## Time training and decoding of every system, on a GPU if one is here (ARGS="--device cuda")
	$(BIN)/python -m benchmarks.models $(ARGS)

bench-orchestration: install ## Time planning, submitting, relaunching beside hydra-submitit-launcher (extra `bench`)
	$(BIN)/python -m benchmarks.orchestration $(ARGS)

bench-collate: install ## Time collating 1,000 trials beside a loop over MLflow's client (1 GB of disk)
	$(BIN)/python -m benchmarks.collate $(ARGS)

dashboard: install ## Serve the runs in MLflow at http://127.0.0.1:5000 (PORT=...), with links to their curves
	@exec $(BIN)/deltalab dashboard --runs "$(DELTALAB_RUNS)" --port $(PORT) $(ARGS)

clean: ## Remove caches and build leftovers, never runs/
	rm -rf .pytest_cache .hypothesis .ruff_cache .import_linter_cache build dist src/*.egg-info
	find . -path ./.venv -prune -o -path ./runs -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
