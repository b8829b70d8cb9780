# make fit                train on the built-in corpus, or on CORPUS=my.txt
# make test               everything that CI runs
# make browser            install Chromium (Debian), in which the tests of the map run; without one they are skipped
# make fuzz               fuzz each parser of the native core for SECONDS (60)
# make benchmark          compare with gensim; see benchmarks/README.md
# make registers          registers, stack, spills and shared memory of the CUDA kernels
# Both of the first set up what they need in .venv on a fresh machine with Python >= 3.10 and a C++ compiler.

PYTHON ?= python3
VENV ?= .venv
CORPUS ?=
OUT ?= out
ARGS ?=
SECONDS ?= 60

BIN = $(VENV)/bin
SOURCES = $(shell find csrc tests/cuda tests/fuzz -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh') $(wildcard benchmarks/*.cu benchmarks/*.cpp)
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# What Python, and pytest of the tests, compiles once serves all that follows.
unexport PYTHONDONTWRITEBYTECODE
# As many tests at once as there are processors.
PARALLEL = -n logical --dist worksteal
CORE = pyproject.toml setup.py CMakeLists.txt constraints.txt $(shell find csrc -type f)

.PHONY: fit test browser lint format pytest sanitize threads sanitized-core threads-core fuzz benchmark registers clean

fit: $(VENV)/fit
	$(BIN)/python -m embedtrain.fit $(CORPUS) --out $(OUT) $(ARGS)

# Two things at once: pip, which works on one processor, and all builds that need none of its packages; then the tests
# under the thread sanitizer, one after the other, and the linters.
test:
	$(MAKE) -j2 $(VENV)/test sanitized-core threads-core fuzz SECONDS=0
	$(MAKE) -j2 --output-sync=target threads lint
	$(MAKE) pytest sanitize

# Each stands for an environment with the native core built into embedtrain/.
$(VENV)/fit: $(CORE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

# One with what the build needs.
$(VENV)/build:
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'cmake>=3.24' ninja 'pybind11>=2.12' 'setuptools>=70.1'
	touch $@

# pip compiles all that it installs on one processor, which takes as long as the rest; a third is tests and model
# architectures that nobody imports.
$(VENV)/test: $(CORE) | $(VENV)/build
	$(PIP) --no-compile -e '.[test,zstd]'
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/transformers/models/' $(VENV)/lib || true  # some packages bring templates that are no Python
	touch $@ $(VENV)/fit

browser:
	command -v chromium || command -v google-chrome || \
	  { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-noto-core; }

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

pytest: $(VENV)/test
	$(BIN)/python -m pytest $(PARALLEL)

# The native tests once more, over a core built with the address and undefined-behaviour sanitizers.
SANITIZED = build/sanitized
# (MAKEFLAGS: ninja complains of a make whose other jobs it cannot count.)
BUILD = MAKEFLAGS= PATH=$(abspath $(BIN)):$$PATH EMBEDTRAIN_CUDA=off $(BIN)/python setup.py --quiet
sanitized-core: $(VENV)/build
	EMBEDTRAIN_SANITIZE=address,undefined $(BUILD) build_ext --build-lib $(SANITIZED)
sanitize: $(VENV)/test sanitized-core
	$(BUILD) build_py --build-lib $(SANITIZED)
	EMBEDTRAIN_SANITIZE=address,undefined LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED) \
	  $(BIN)/pytest -m 'native and not once' $(PARALLEL) $$(grep -l mark.native tests/test_*.py)

# Those that start threads, over a core built with the thread sanitizer. tests/races.txt names the races that are meant
# to be. setarch: GCC's runtime before 14 does not know how Linux lays out memory at random since 6.5.
THREADS = build/threads
threads-core: $(VENV)/build
	EMBEDTRAIN_SANITIZE=thread $(BUILD) build_ext --build-lib $(THREADS)
threads: $(VENV)/test threads-core
	$(BUILD) build_py --build-lib $(THREADS)
	EMBEDTRAIN_SANITIZE=thread LD_PRELOAD="$$(c++ -print-file-name=libtsan.so)" PYTHONPATH=$(THREADS) \
	  TSAN_OPTIONS="suppressions=$(abspath tests/races.txt) halt_on_error=1" \
	  $$(setarch -R true 2>/dev/null && echo setarch -R) \
	  $(BIN)/pytest -m threads $$(grep -l mark.threads tests/test_*.py)

# tests/fuzz/: one program for each .cpp but the driver; seeds in the folder of its name, which are all that `make test`
# runs: a test fails by a change, not by luck. What fuzzing finds stays in build/.
FUZZED = build/fuzz
FUZZ_FLAGS = -std=c++17 -O1 -g -Icsrc -pthread -fno-omit-frame-pointer -fsanitize=address,undefined \
  -fno-sanitize-recover=all
fuzz: $(FUZZED)/encoder $(FUZZED)/vectors
	for each in encoder vectors; do \
	  mkdir -p $(FUZZED)/$$each-inputs && cp -r tests/fuzz/$$each/. $(FUZZED)/$$each-inputs && \
	  (cd $(FUZZED) && ./$$each $(SECONDS) $$each-inputs) || exit 1; done

$(FUZZED)/driver.o: tests/fuzz/driver.cpp
	mkdir -p $(FUZZED)
	$(CXX) $(FUZZ_FLAGS) -c $< -o $@

FUZZ_SOURCES = tests/fuzz/require.h csrc/bfloat16.h $(wildcard csrc/corpus/*) $(wildcard csrc/vectors/*)
$(FUZZED)/encoder: tests/fuzz/encoder.cpp $(FUZZED)/driver.o $(FUZZ_SOURCES)
	$(CXX) $(FUZZ_FLAGS) -fsanitize-coverage=trace-pc $< $(wildcard csrc/corpus/*.cpp) $(FUZZED)/driver.o -o $@

$(FUZZED)/vectors: tests/fuzz/vectors.cpp $(FUZZED)/driver.o $(FUZZ_SOURCES)
	$(CXX) $(FUZZ_FLAGS) -fsanitize-coverage=trace-pc $< $(wildcard csrc/vectors/*.cpp) $(FUZZED)/driver.o -o $@

benchmark: $(VENV)/test
	$(PIP) -e '.[benchmark]'
	$(BIN)/python benchmarks/compare.py $(CORPUS) $(ARGS)

# What the CUDA kernels take of a multiprocessor, by nvcc.
registers: $(VENV)/fit
	$(BIN)/python benchmarks/registers.py

clean:
	rm -rf build $(VENV) embedtrain/_native*.so *.egg-info
