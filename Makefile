# The two commands of the README, and those of daily work. VENV=FOLDER puts the environment elsewhere.
VENV ?= .venv
BIN = $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help demo test lint bench clean

help:
	@echo "make demo    score channels, export metrics, judge photographs; results in demo_output/"
	@echo "make test    lint, type-check and test, with coverage"
	@echo "make lint    the first two of these"
	@echo "make bench   the benchmarks that need no data of their own"
	@echo "make clean   remove the environment and what was built"

demo: $(VENV)/.installed
	@echo "== Running the demonstration"
	@$(BIN)/pe-runtime demo --output demo_output

test: lint
	@echo "== Testing"
	@# One thread per worker: the workers already fill the cores.
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal --cov --cov-report term --durations 10

lint: $(VENV)/.installed
	@echo "== Linting and type-checking"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy export

bench: $(VENV)/.installed
	$(BIN)/python bench/backbone_cost.py
	$(BIN)/python bench/gabor_distances.py

clean:
	rm -rf $(VENV) build *.egg-info demo_output .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage

$(VENV)/.installed: requirements/dev.txt pyproject.toml setup.py scripts/make_environment.sh
	@scripts/make_environment.sh $(VENV)
