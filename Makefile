# make train            a virtual environment, then five minutes of PPO on BoxGrasping (ARGS="..." for anything else)
# make test             the whole test suite, the linter and the type checker
# make test-fast        the tests that take under a minute
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# On two CPU cores: about 3 million steps in five minutes, enough to grasp and to begin to lift.
ARGS ?= --task BoxGrasping --num-envs 512 --max-iterations 170

.PHONY: train test test-fast lint clean

train: $(VENV)/.installed
	$(BIN)/python train_ppo.py $(ARGS)

test: lint
	$(BIN)/python -m pytest -q

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m "not slow"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) *.egg-info
