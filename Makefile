# Everything a newcomer needs: `make demo` and `make test`, each from nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export HF_HUB_OFFLINE := 1
# What DeepSpeed compiles stays in this environment: another checkout has other paths and would compile it anew.
export TORCH_EXTENSIONS_DIR := $(abspath $(VENV))/torch_extensions

.PHONY: demo test check clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch==2.13.0"
	$(PIP) -e ".[demo,test]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/equipoise prepare configs/demo.yaml
	$(BIN)/accelerate launch --config_file configs/accelerate/cpu_ddp2.yaml -m equipoise.launch.train configs/demo.yaml --overwrite
	$(BIN)/accelerate launch --config_file configs/accelerate/cpu_ddp2.yaml -m equipoise.launch.evaluate runs/demo
	$(BIN)/equipoise export runs/demo exports/demo --overwrite
	$(BIN)/python -m equipoise.launch.summary runs/demo exports/demo

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One worker per core, each with the tests of whole files; jobs of several processes find their own ports.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

clean:
	rm -rf $(VENV) prepared runs exports build *.egg-info
