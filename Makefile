# Everything a fresh machine needs is Python 3.10+ with venv, a C compiler and make.
# PYTHON=python3.12 make test   uses another interpreter; each has its own environment.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= .venv/$(VERSION)
RUN := $(VENV)/bin/python

# Set up, build, and run the main job: several workers, one total, a worker killed on the way.
demo: $(VENV)/.installed
	$(RUN) examples/demo.py $(ARGS)

# Set up, build, and pass the tests.
test: $(VENV)/.installed
	$(RUN) -m pytest $(ARGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

benchmark: $(VENV)/.installed
	$(RUN) benchmarks/instruments.py $(ARGS)
	$(RUN) benchmarks/collection.py $(ARGS)
	$(RUN) benchmarks/processes.py $(ARGS)

$(VENV)/.installed: pyproject.toml $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable ".[lint]" $(if $(WERROR),-C cmake.define.OTEL_SHM_WERROR=ON)
	# It wants one SDK exactly, and has no release for some; what it does is the same with the next one.
	$(RUN) -m pip install --quiet --no-deps "opentelemetry-instrumentation-flask>=0.65b0"
	# The tests start hundreds of interpreters, which may not be allowed to keep what they compile.
	$(RUN) -m compileall -q otel_shm tests examples
	touch $@

clean:
	rm -rf .venv build

.PHONY: demo test lint benchmark clean
.DEFAULT_GOAL := test
