# Everything starts here: `make run` holds a council, `make test` passes all tests. Both install what they need.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
QUESTION ?= What makes a good answer, and how would you check one?
ARTEFACTS ?= artefacts
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run up test test-long lint bench bench-long peers docs lock clean browser postgres faketime
.DEFAULT_GOAL := run

run: $(VENV)/.installed ## a council answers a question here, on the embedded default
	$(BIN)/council ask "$(QUESTION)"

up: $(VENV)/.installed ## master, local node and page, until Ctrl-C
	$(BIN)/council up

test: $(VENV)/.installed-dev browser postgres faketime ## every test but the long ones, with coverage
	rm -f .coverage .coverage.*
	COUNCIL_TEST_ARTEFACTS=$(abspath $(ARTEFACTS)) $(BIN)/pytest -n 4 --dist worksteal -m "not long" \
		--cov --cov-report= $(PYTEST_ARGS)
	$(BIN)/coverage combine -q --append 2>/dev/null || true
	$(BIN)/coverage report --fail-under=90

test-long: $(VENV)/.installed-dev browser postgres faketime ## what takes minutes; COUNCIL_CHAOS_SEED=N makes another storm
	$(BIN)/pytest -n 3 --dist worksteal -m "(long or hypothesis) and not alone" --hypothesis-profile long $(PYTEST_ARGS)
	$(BIN)/pytest -m "long and alone" $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## the checks that CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev peers ## figures of docs/benchmarks.md, in minutes
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

bench-long: $(VENV)/.installed-dev peers
	$(BIN)/python -m tests.bench --long $(BENCH_ARGS)

# The LiteLLM proxy, a peer in the benches, has a virtual environment of its own: it wants other versions than
# we do. Without it the benches run, and leave its rows out.
peers:
	@test -e .venv-peers/.installed -a .venv-peers/.installed -nt configs/lock/peers.txt || { \
	$(or $(PYTHON),python3) -m venv .venv-peers && \
	.venv-peers/bin/pip install -q --no-deps --require-hashes -r configs/lock/peers.txt && \
	touch .venv-peers/.installed; } || echo "LiteLLM is not installed; its rows are left out (make peers)"

docs: $(VENV)/.installed-dev ## the generated pages of docs/ and configs/.env.sample
	$(BIN)/python -m tests.docs

# The lock files name every version and hash, for every platform; made anew by `make lock` alone.
LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --no-annotate
lock: $(VENV)/.installed-dev
	$(BIN)/pip install -q uv
	$(LOCK) configs/lock/build.in -o configs/lock/build.txt
	$(LOCK) pyproject.toml -o configs/lock/run.txt
	$(LOCK) configs/lock/peers.in -o configs/lock/peers.txt
	$(LOCK) --extra dev pyproject.toml configs/lock/build.in -o configs/lock/dev.txt

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; on Debian: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1 && \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
	  "$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; } || \
	{ echo "Python's venv is missing; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: configs/lock/run.txt configs/lock/build.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q --no-deps --require-hashes -r configs/lock/build.txt
	$(BIN)/pip install -q --no-deps --require-hashes -r configs/lock/run.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: configs/lock/dev.txt | $(VENV)/.installed
	$(BIN)/pip install -q --no-deps --require-hashes -r configs/lock/dev.txt
	@touch $@

# The page's tests drive a real browser: Debian's Chromium, installed as root where it is missing.
browser:
	@command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1 && apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium; } || \
	echo "Chromium is missing: the page's tests are skipped (apt-get install chromium)"

# Tests of the database run on SQLite and on a real PostgreSQL server of their own.
postgres:
	@command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1 && apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql; } || \
	echo "PostgreSQL is missing: its tests are skipped (apt-get install postgresql)"

# Nodes whose clock is wrong.
faketime:
	@ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1 && apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends faketime; } || \
	echo "faketime is missing: the tests of wrong clocks are skipped (apt-get install faketime)"

clean:
	rm -rf $(VENV) .venv-peers $(ARTEFACTS) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
