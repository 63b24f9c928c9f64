# make train            a virtual environment, then PPO on BoxGrasping (ARGS="..." for anything else)
# make fast             the quick half of the tests, in under a minute
# make test             linter, type checker and all tests (MuJoCo Warp's too, on the CPU)
# make test38           the tests of what Isaac Gym's users run, on Python 3.8 (5 GB of PyTorch with CUDA)
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# On two CPU cores: 13 million steps in some 20 minutes, after which 98 % of the attempts succeed.
ARGS ?= --task BoxGrasping --config train_cpu

PYTHON38 ?= python3.8
VENV38 ?= .venv38
TESTS38 := $(patsubst %,tests/test_%.py,checkpoint cli doctor isaacgym plot ppo workspace)

.PHONY: train test test38 fast lint clean

train: $(VENV)/.installed
	$(BIN)/python train_ppo.py $(ARGS)

test: lint
	$(BIN)/python -m pytest -q -rs --durations=40

test38: $(VENV38)/.installed
	$(VENV38)/bin/python -m pytest -q -m "not mujoco" $(TESTS38)

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

$(VENV38)/.installed: setup.cfg constraints-38.txt
	$(PYTHON38) -m venv $(VENV38)
	$(VENV38)/bin/pip install -q --disable-pip-version-check -c constraints-38.txt -e ".[isaacgym,view,plot,wandb]" pytest mujoco
	touch $@

clean:
	rm -rf $(VENV) $(VENV38) *.egg-info
