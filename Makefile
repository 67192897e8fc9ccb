# Every target sets up what it needs by itself; `make help` lists them.
PYTHON ?= $(shell tools/find-python)
BIN := .venv/bin
NATIVE := $(wildcard native/*/*.[ch]) native/agent/flags hatch_build.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: .venv/.installed ## install Debian packages (as root), .venv and the native parts: leaves .venv/bin/leakline

.venv/.installed: pyproject.toml tools/install-packages tools/find-python src/leakline/__init__.py $(NATIVE)
	tools/install-packages build
	tools/make-venv .venv '$(PYTHON)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -m compileall -q src/leakline
	@touch $@

.venv/.developing: .venv/.installed
	tools/install-packages test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: .venv/.installed ## start the classic leaking program and let leakline, which did not start it, find the line
	tools/demo

check: .venv/.developing ## formatting, lint, types, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.developing ## let ruff rewrite what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

test: .venv/.developing ## the tests, in under ten minutes
	$(BIN)/pytest -m 'not slow and not alone' -n 4 --dist worksteal
	$(BIN)/pytest -m 'not slow and alone'

agent-check: build/libleakline-agent-check.so ## the agent that walks every stack again and compares

build/libleakline-agent-check.so: $(NATIVE)
	@mkdir -p build
	$(CC) @native/agent/flags -DLEAKLINE_AGENT_SELF_CHECK native/agent/*.c native/unwind/*.c -o $@

glibcs: ## the C libraries of several Debian releases, in build/glibcs, where they are missing
	tools/fetch-glibcs build/glibcs

test-real: .venv/.developing glibcs ## the longer tests on real processes
	tools/install-packages real
	$(BIN)/pytest -m 'slow and not alone' -n 3 --dist worksteal tests/real
	$(BIN)/pytest -m 'slow and alone' tests/real

test-kernel: .venv/.developing ## a real kernel that leaks, booted in user-mode Linux (LEAKLINE_UML_DIR: a ready one)
	tools/install-packages kernel
	[ -n "$$LEAKLINE_UML_DIR" ] || [ -e build/uml/linux ] || tools/build-uml build/uml
	$(BIN)/pytest -m slow tests/kernel

test-web: .venv/.developing ## what people look at in a browser, in Debian's Chromium
	tools/install-packages web
	$(BIN)/pytest -m slow tests/web

test-fleet: .venv/.developing ## many hosts by a real Prometheus and a real VictoriaMetrics
	tools/install-packages fleet
	$(BIN)/pytest -m slow tests/fleet

bench: .venv/.installed ## the figures of docs/performance.md
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python benchmarks/ps.py
	$(BIN)/python benchmarks/maps.py
	$(BIN)/python benchmarks/trend.py
	$(BIN)/python benchmarks/watch.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/top.py
	$(BIN)/python benchmarks/scan.py
	tools/install-packages bench
	$(BIN)/python benchmarks/agent.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/kernel.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[report]" playwright
	tools/install-packages web
	$(BIN)/python benchmarks/report.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[fleet]"
	tools/install-packages fleet
	$(BIN)/python benchmarks/fleet.py
	$(BIN)/python benchmarks/fleet_parquet.py
	$(BIN)/python benchmarks/fleet_synthetic.py

docs: .venv/.installed ## regenerate the JSON schemas
	$(BIN)/python tools/write-schemas docs/schemas

dist: .venv/.developing ## wheel and source archive in dist/
	$(BIN)/python -m build

clean: ## remove what was built
	rm -rf .venv build dist src/leakline/_native .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo check format test agent-check glibcs test-real test-kernel test-web test-fleet bench docs dist clean
