# make train            a virtual environment, then about nine minutes of PPO on BoxGrasping (ARGS="..." for anything else)
# make fast             the quick half of the tests, in under a minute
# make test             linter, type checker and all tests (MuJoCo Warp's too, on the CPU)
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# On two quiet CPU cores: 4.9 million steps in about nine minutes, after which most attempts succeed.
ARGS ?= --task BoxGrasping --num-envs 512 --max-iterations 300

.PHONY: train test fast lint clean

train: $(VENV)/.installed
	$(BIN)/python train_ppo.py $(ARGS)

test: lint
	$(BIN)/python -m pytest -q

fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[gpu,dev,parity]"
	touch $@

clean:
	rm -rf $(VENV) *.egg-info
