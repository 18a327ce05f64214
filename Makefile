# What people do here.  `make demo` and `make test` need only Python 3.11 (or newer), make, and for speed a C
# compiler; everything else goes into .venv.  A second call does only what has changed.

VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
KERNELS := $(shell find ext -name '*.pyx' -o -name '*.pxd')
JOBS   ?= 2
OPTIONS ?=

export OMP_NUM_THREADS ?= 1

.PHONY: help demo test slow bench lint format studies validate calibrate docs clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1 \t/p' Makefile | expand -t 20

demo: $(STAMPS)/kernels  ## install into .venv and run the Mixtral example
	$(BIN)/codesign run examples/mixtral-dgx-h100.yaml

test: $(STAMPS)/dev $(STAMPS)/kernels  ## run all tests but the slow ones
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(OPTIONS)

slow: $(STAMPS)/dev $(STAMPS)/kernels  ## run the slow tests
	$(BIN)/python -m pytest -n $(JOBS) -m slow $(OPTIONS)

bench: $(STAMPS)/dev $(STAMPS)/kernels  ## measure speed, as ratios to the plain twins
	$(BIN)/python -m benchmarks $(OPTIONS)

lint: $(STAMPS)/dev  ## ruff and strict mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/dev  ## put the code into its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

studies: $(STAMPS)/dev $(STAMPS)/kernels  ## reproduce the published systems, on full grids
	$(BIN)/codesign study run --all --full $(OPTIONS)

validate: $(STAMPS)/dev $(STAMPS)/kernels  ## show the errors against measurements and other simulators
	$(BIN)/codesign validate $(OPTIONS)

calibrate: $(STAMPS)/dev $(STAMPS)/kernels  ## fit the cost constants again from ../shared/data
	$(BIN)/python -m hwmodels.calibration $(OPTIONS)

docs: $(STAMPS)/dev $(STAMPS)/kernels  ## draw the figures and write the generated pages again
	$(BIN)/python docs/make.py $(OPTIONS)

clean:  ## remove what was built, keep .venv
	rm -rf build *.egg-info $(STAMPS)
	find ext -name '*.so' -delete -o -name '*.c' -delete

# --- what the targets stand on ---------------------------------------------------------------------------

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'error: Python 3.11 or newer is needed; install python3.11, or say where it is: make PYTHON=/path/to/python' >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $$($(PYTHON) --version) has no venv module; on Debian and Ubuntu: apt install python3.11-venv" >&2; \
	  exit 1; }
	@command -v $${CC:-cc} >/dev/null || echo 'warning: no C compiler: the plain kernels will run, much slower' >&2
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# what setup.py imports: with it in .venv the install needs no second, temporary environment
$(STAMPS)/build: $(STAMPS)/venv
	@echo 'installing into .venv: about a minute'
	$(PIP) install 'setuptools>=77' wheel 'Cython>=3.1' 'numpy>=2.0'
	@touch $@

# the install itself compiles nothing: the kernels have their own stamp below, and are built where they stand
$(STAMPS)/installed: $(STAMPS)/build pyproject.toml setup.py
	CODESIGN_EXT= $(PIP) install --no-build-isolation --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/installed
	CODESIGN_EXT= $(PIP) install --no-build-isolation --editable '.[dev,explore]'
	@touch $@

$(STAMPS)/kernels: $(STAMPS)/installed $(KERNELS)
	CODESIGN_REQUIRE_EXT=$$(command -v $${CC:-cc} >/dev/null && echo 1) \
	  $(BIN)/python setup.py --quiet build_ext --inplace --parallel $(JOBS)
	@touch $@
