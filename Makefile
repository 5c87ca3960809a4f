# make demo: set up and run the main job on the embedded data set.
# make test: set up and run the checks and all tests.
# make bench: set up the peers and run every benchmark (hours); make bench PHOTOGRAPHS=DIR runs those on photographs too.
# make lock: requirements.lock anew, with the hash of every file; make sbom: the bill of what it installs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint bench configs lock sbom audit clean

demo: $(VENV)/.runtime
	$(BIN)/resomap run --config configs/demo.yaml

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run_all.py $(if $(PHOTOGRAPHS),--photographs $(PHOTOGRAPHS))

configs: $(VENV)/.dev
	$(BIN)/python -m resomap.config.document

lock: $(VENV)/.dev
	$(PIP) install --quiet uv==0.13.9
	$(BIN)/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet \
	  --output-file requirements.lock requirements.txt requirements-dev.txt
	$(BIN)/python scripts/sbom.py

sbom: $(VENV)/.dev
	$(BIN)/python scripts/sbom.py

audit: $(VENV)/.dev
	$(PIP) install --quiet pip-audit==2.10.1
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements.lock

$(VENV)/.runtime: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ResoMap needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r requirements.txt
	$(PIP) install --quiet --no-deps -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	$(PIP) install --quiet -r requirements-dev.txt
	touch $@

$(VENV)/.bench: $(VENV)/.dev requirements-bench.txt
	$(PIP) install --quiet -r requirements-bench.txt
	touch $@

clean:
	rm -rf $(VENV) build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
