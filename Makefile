# make fit                train on the built-in corpus, or on CORPUS=my.txt
# make test               everything that CI runs
# make browser            install Chromium (Debian), in which the tests of the map run; without one they are skipped
# make benchmark          compare with gensim; see benchmarks/README.md
# make registers          registers, stack, spills and shared memory of the CUDA kernels
# Both of the first set up what they need in .venv on a fresh machine with Python >= 3.10 and a C++ compiler.

PYTHON ?= python3
VENV ?= .venv
CORPUS ?=
OUT ?= out
ARGS ?=

BIN = $(VENV)/bin
SOURCES = $(shell find csrc tests/cuda -type f) $(wildcard benchmarks/*.cu)
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# As many tests at once as there are processors.
PARALLEL = -n logical --dist worksteal
CORE = pyproject.toml setup.py CMakeLists.txt constraints.txt $(shell find csrc -type f)

.PHONY: fit test browser lint format pytest sanitize benchmark registers clean

fit: $(VENV)/fit
	$(BIN)/python -m embedtrain.fit $(CORPUS) --out $(OUT) $(ARGS)

test: lint pytest sanitize

# Each stands for an environment with the native core built into embedtrain/.
$(VENV)/fit: $(CORE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/test: $(CORE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[test,zstd]'
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
sanitize: $(VENV)/test
	PATH=$(abspath $(BIN)):$$PATH EMBEDTRAIN_CUDA=off EMBEDTRAIN_SANITIZE=address,undefined \
	  $(BIN)/python setup.py --quiet build --build-lib $(SANITIZED)
	EMBEDTRAIN_SANITIZE=address,undefined LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED) $(BIN)/pytest -m native $(PARALLEL)

benchmark: $(VENV)/test
	$(PIP) -e '.[benchmark]'
	$(BIN)/python benchmarks/compare.py $(CORPUS) $(ARGS)

# What the CUDA kernels take of a multiprocessor, by nvcc.
registers: $(VENV)/fit
	$(BIN)/python benchmarks/registers.py

clean:
	rm -rf build $(VENV) embedtrain/_native*.so *.egg-info
