# Everything that a user runs. `make demo` and `make test` need Python 3.11 to 3.13 and a package index.
UV_VERSION := 0.13.9
PYTHON ?= python3
BIN := .venv/bin

.PHONY: environment demo acceptance test up down lint lock notebooks docs compose-env browser

environment: .venv/.ready

.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	  "DermaScan needs Python 3.11 to 3.13, this is %d.%d: run make PYTHON=/path/to/python3.12" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# isic-challenge-scoring unpacks submissions with zipfile-deflate64, which has no wheels and would
# need a compiler; its metrics do without.
lock:
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --extra dev \
	  --no-emit-package zipfile-deflate64 --no-emit-index-url \
	  --custom-compile-command "make lock" --quiet pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	  --custom-compile-command "make lock" --quiet benchmarks/requirements.in \
	  --output-file benchmarks/requirements.txt

lint: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 --dist loadfile

# What the tests of pages look at them with.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }

demo: environment
	$(BIN)/dermascan demo

# DATA is a tar or folder as the official ISIC client writes it; EXTERNAL names more of them, on
# which the model is only measured.
acceptance: environment
	@test -n "$(DATA)" || { echo "name an archive: make acceptance DATA=ham10000.tar" >&2; exit 2; }
	$(BIN)/dermascan acceptance --data "$(DATA)" $(foreach archive,$(EXTERNAL),--external "$(archive)")

# Executes the notebooks in place, on drawn images in a temporary folder.
notebooks: environment
	$(BIN)/python notebooks/execute.py

docs: environment
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

up: environment
	$(BIN)/dermascan up

down: environment
	$(BIN)/dermascan down

# Secrets for docker-compose.yml.
compose-env: environment
	$(BIN)/dermascan compose env
