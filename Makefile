# Targets build .venv by themselves; nothing is installed outside of it.
PYTHON ?= python3.11
VENV ?= .venv
PYTEST_ARGS ?=
REPORT ?= $(CURDIR)/artifacts/report.html
# One process a core, each with one thread: small tensors are slower on several.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := all,dev,docs,tensorrt-rtx

.DEFAULT_GOAL := help
.PHONY: help install demo test test-full fuzz chaos matrix golden lint docs picture format bundle clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make .venv with eqnet and everything that it needs

# pip runs again only when what the project needs has changed.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) not found: install Python 3.11 or newer, or pass PYTHON=/path/to/python" >&2; \
	  exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)  ## Search, export, verify and bench every built-in profile
	$(BIN)/eqnet demo

test: $(STAMP)  ## Run the tests
	$(PYTEST) -m "not full" $(PYTEST_ARGS)

# By class, so that the exporters' products share the cores; one file holds them all.
test-full: $(STAMP)  ## Run the tests and the whole product of quantization forms
	$(PYTEST) --dist loadscope $(PYTEST_ARGS)

fuzz: $(STAMP)  ## Damaged files for every reader: hours; FUZZ_ARGS="--inputs 1000" for less
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability/fuzz.py $(FUZZ_ARGS)

chaos: $(STAMP)  ## Kill five commands at every rename, and run two at once; nothing may be lost
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability/chaos.py $(CHAOS_ARGS)

# Other interpreters and fewer rows: MATRIX_ARGS="--python python3.11 python3.13 --only board all"
matrix: $(STAMP)  ## Install into clean environments, lowest and highest releases: GBs, an hour
	$(BIN)/python tests/tools/install_matrix.py $(MATRIX_ARGS)

golden: $(STAMP)  ## Write the golden graphs of tests/golden anew, to be reviewed as a diff
	$(BIN)/python tests/tools/golden_graphs.py

lint: $(STAMP)  ## Check style, types and the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

docs: $(STAMP)  ## Build the documentation's site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

picture:  ## Take the README's picture of artifacts/report.html, in Debian's chromium
	profile=$$(mktemp -d) && chromium --headless --no-sandbox --disable-gpu --disable-quic \
	  --no-first-run --disable-background-networking --disable-component-update --disable-sync \
	  --hide-scrollbars --force-device-scale-factor=1.5 --window-size=1300,1240 \
	  --user-data-dir="$$profile" --screenshot="$(CURDIR)/docs/demo.png" "file://$(REPORT)" && \
	  rm -rf "$$profile"

format: $(STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bundle: $(STAMP)  ## Make the bundled slice of Fashion-MNIST again from the full data
	$(BIN)/python -m eqnet.data.make_bundle

clean:  ## Remove .venv, artifacts and caches
	rm -rf $(VENV) artifacts dist build site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
