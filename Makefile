# The two commands of the README, and those of daily work. VENV=FOLDER puts the environment elsewhere.
VENV ?= .venv
BIN = $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
NATIVE = CMakeLists.txt $(shell find cmake csrc -type f)
# Of each libFuzzer target.
SECONDS = 20
# CMake and Ninja are those of the environment, which is not activated.
CMAKE = PATH="$(abspath $(BIN)):$$PATH" cmake

.PHONY: help demo test native-test sanitize fuzz lint bench clean

help:
	@echo "make demo         score channels, export metrics, judge photographs; results in demo_output/"
	@echo "make test         lint, type-check and test, with coverage"
	@echo "make lint         the first two of these"
	@echo "make native-test  the tests in C++ alone"
	@echo "make sanitize     these under the address, undefined-behaviour and thread sanitizers"
	@echo "make fuzz         libFuzzer on what reads files, with clang: SECONDS=20 for each target"
	@echo "make bench        the benchmarks that need no data of their own"
	@echo "make clean        remove the environment and what was built"

demo: $(VENV)/.installed
	@echo "== Running the demonstration"
	@$(BIN)/pe-runtime demo --output demo_output

test: lint native-test
	@echo "== Testing"
	@# One thread per worker: the workers already fill the cores.
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal --cov --cov-report term --durations 10

native-test: native-test-release

sanitize: native-test-address native-test-thread

# By the name of the preset, see CMakePresets.json.
native-test-%: native-build-%
	@echo "== Testing the native code: $*"
	PATH="$(abspath $(BIN)):$$PATH" ctest --preset $*

# What was found with another environment may be gone with it: ninja, headers.
native-build-%: $(VENV)/.installed
	@echo "== Building the native code: $*"
	$(CMAKE) --preset $* --log-level=WARNING -D Python_EXECUTABLE="$(abspath $(BIN)/python)" \
		$$(grep -qs '^Python_EXECUTABLE:.*=$(abspath $(BIN)/python)$$' build/$*/CMakeCache.txt || echo --fresh)
	$(CMAKE) --build --preset $*

fuzz: native-build-fuzz
	@echo "== Fuzzing what reads files, $(SECONDS) s for each target"
	JOBS=$(JOBS) scripts/fuzz.sh $(SECONDS)

lint: $(VENV)/.installed
	@echo "== Linting and type-checking"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy export

bench: $(VENV)/.installed
	$(BIN)/python bench/backbone_cost.py
	$(BIN)/python bench/gabor_distances.py
	$(BIN)/python bench/contextual.py --positions 1024,4096 --channels 13,128 --batch 1
	$(BIN)/python bench/contextual_accuracy.py
	$(BIN)/python bench/channel_distance.py
	$(BIN)/python bench/onnx_contextual.py --positions 4096
	$(BIN)/python bench/exported.py --sizes 256,512 --threads 2

clean:
	rm -rf $(VENV) build pe_runtime/*.so *.egg-info demo_output .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage

$(VENV)/.installed: requirements/dev.txt pyproject.toml setup.py scripts/make_environment.sh scripts/onnxruntime_headers.sh $(NATIVE)
	@scripts/make_environment.sh $(VENV)
