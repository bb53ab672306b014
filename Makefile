# Two commands: `make rescan PHOTOS=DIR` indexes a folder, `make test` runs every check.
# Both install what is missing first (`make setup` does only that). Debian 12, Python 3.10 to 3.13.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PHOTOS ?=
ARGS ?=
PYTEST_ARGS ?= -n 2 --dist loadgroup
SERVER_VENV ?= .venv-server
# Triton's wheel needs numpy < 2, which has no wheel for Python 3.13; with 3.10 it would get another ONNX Runtime than
# the rest has, and faces at the edge of a decision could come out differently.
SERVER_PYTHON ?= $(shell for p in python3.11 python3.12 $(PYTHON) python3.10; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
DEMO := demo-library

.PHONY: setup server serve rescan test lint unit acceptance locks lowest clean

setup: $(VENV)/.installed
	@$(BIN)/sidecar-faces models install

$(VENV)/.installed: requirements/dev.txt pyproject.toml scripts/install-system.sh
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 is needed; none was found." >&2; exit 1; }
	sh scripts/install-system.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Triton in an environment of its own, as its wheel needs numpy < 2.
server: $(SERVER_VENV)/.installed

$(SERVER_VENV)/.installed: requirements/server.txt
	@test -n "$(SERVER_PYTHON)" || { echo "Triton needs Python 3.10 to 3.12; none was found." >&2; exit 1; }
	$(SERVER_PYTHON) -m venv $(SERVER_VENV)
	$(SERVER_VENV)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/server.txt
	@touch $@

serve: setup server
	@$(BIN)/sidecar-faces serve --server-python $(SERVER_VENV)/bin/python $(ARGS)

rescan: setup
ifeq ($(strip $(PHOTOS)),)
	@$(BIN)/python scripts/make_demo_library.py $(DEMO)
	@$(BIN)/sidecar-faces rescan $(ARGS) $(DEMO)
else
	@$(BIN)/sidecar-faces rescan $(ARGS) "$(PHOTOS)"
endif

test: setup lint unit

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup $(if $(SERVER_PYTHON),server)
	@sh scripts/install-system.sh $(PYTHON) test
	$(BIN)/python -m pytest $(PYTEST_ARGS) --ignore=tests/acceptance

# What a real digiKam makes of our sidecars (docs/acceptance.md).
acceptance: setup
	@sh scripts/install-system.sh $(PYTHON) acceptance
	$(BIN)/python -m pytest tests/acceptance

# Locks for every supported Python; hashes only, so that any mirror of the package index will do.
locks:
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml -o requirements/runtime.txt
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --group test -c requirements/runtime.txt -o requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header \
		requirements/server.in -o requirements/server.txt

# The tests with the oldest versions that pyproject.toml admits (needs uv, as `locks` does).
lowest:
	uv venv --quiet --python 3.10 .venv-lowest
	uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable . --group test 'pip>=24'
	.venv-lowest/bin/sidecar-faces models install
	.venv-lowest/bin/python -m pytest $(PYTEST_ARGS) --ignore=tests/acceptance --ignore=tests/daemon --ignore=tests/triton

clean:
	rm -rf $(VENV) $(SERVER_VENV) .venv-lowest $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis
