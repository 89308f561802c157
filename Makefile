# What a newcomer, a developer and CI run. All of it shares one virtual environment, .venv, made from the lock.

# The Python to make it with, 3.11 or newer: make PYTHON=/path/to/python3.13 test
PYTHON ?= python3

# Where `make run` listens.
PORT ?= 8000

# How long a soak goes on.
MINUTES ?= 60

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command "make lock"

# The time of every file in what is built: that of the commit, so that building it again gives the same bytes.
EPOCH = $(shell git log -1 --format=%ct)

.PHONY: help demo run test test-long dist soak bench bench-growth bench-telling bench-calling format lock
.DEFAULT_GOAL := help

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/installed ## see a pretend Alipay and the service at work
	$(BIN)/python -m app.simulator.demo

run: .venv/installed ## migrate the database and serve, at port 8000 or PORT
	$(BIN)/flask db upgrade
	$(BIN)/flask serve --port $(PORT)

test: .venv/installed ## check and test everything, as CI does
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
# A machine that stands still for as long as an answer may take fails a test that has nothing to do with it. So what
# failed is run once more, by itself, and is reported both times; a fault fails again.
	$(BIN)/pytest --numprocesses 3 --dist worksteal --cov -m "not long" \
		|| $(BIN)/pytest --last-failed --last-failed-no-failures none --cov --cov-append -m "not long"

test-long: .venv/installed ## test several machines and a rolling upgrade, with real servers
	$(BIN)/pytest -m long

dist: export SOURCE_DATE_EPOCH = $(EPOCH)
# The archive has what is committed, and nothing else that may lie about here.
dist: .venv/release-installed ## build a wheel, a source archive, one file for this platform, and the SBOM, into dist/
	rm -rf dist build/wheels
	$(BIN)/python -m hatchling build --target wheel --directory dist
	version=$$($(BIN)/python -m hatchling version) && git archive --prefix notifyauth-$$version/ \
		--output dist/notifyauth-$$version.tar.gz HEAD
	$(PIP) download --require-hashes --no-deps --only-binary :all: --requirement requirements/run.lock --dest build/wheels
	cp dist/*.whl build/wheels
	$(BIN)/pex notifyauth --pre-resolved-dists build/wheels --venv --console-script notifyauth \
		--output-file dist/notifyauth.pex
	$(BIN)/cyclonedx-py requirements requirements/run.lock --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-file dist/notifyauth.cdx.json
	cp requirements/run.lock dist
	cd dist && sha256sum -- * > SHA256SUMS

soak: .venv/installed ## try for an hour, or MINUTES, to make the service lose something; SEED repeats a run
	$(BIN)/python -m tests.soak both --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: .venv/bench-installed ## measure the service beside what else one could use; OPTIONS=--quick takes a minute
	$(BIN)/python -m benchmarks compare $(OPTIONS)

bench-growth: .venv/bench-installed ## measure the service with up to a million authorizations on record; OPTIONS=--huge: ten million
	$(BIN)/python -m benchmarks growth $(OPTIONS)

bench-telling: .venv/bench-installed ## measure how soon and how fast the merchant's systems are told
	$(BIN)/python -m benchmarks telling $(OPTIONS)

bench-calling: .venv/bench-installed ## measure how soon a code becomes a token when the service calls
	$(BIN)/python -m benchmarks calling $(OPTIONS)

format: .venv/installed ## format the code and repair what can be repaired
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

lock: .venv/installed ## take the newest releases that pyproject.toml allows into the locks
	$(LOCK) --upgrade pyproject.toml --output-file requirements/run.lock
	$(LOCK) --upgrade pyproject.toml --group dev --constraints requirements/run.lock --output-file requirements/dev.lock
	$(LOCK) --upgrade --group release --constraints requirements/dev.lock --output-file requirements/release.lock
	$(LOCK) --upgrade --group bench --constraints requirements/dev.lock --output-file requirements/bench.lock

# Nothing is installed that the lock does not name with its hash, the build backend included.
.venv/installed: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "notifyauth needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=/path/to/python3.13 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing what the lock names into .venv. This takes a minute, once."
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(PIP) install --require-hashes --no-deps --requirement requirements/dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/release-installed: .venv/installed requirements/release.lock
	@$(PIP) install --require-hashes --no-deps --requirement requirements/release.lock
	@touch $@

.venv/bench-installed: .venv/installed requirements/bench.lock
	@$(PIP) install --require-hashes --no-deps --requirement requirements/bench.lock
	@touch $@
