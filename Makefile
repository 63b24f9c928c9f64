# make train            a virtual environment, then PPO on BoxGrasping (ARGS="..." for anything else)
# make fast             the quick half of the tests, in under a minute
# make test             linter, type checker and all tests (MuJoCo Warp's too, on the CPU)
# make docs             the documentation as a site, in site/; a warning is an error
# make test38           the tests of what Isaac Gym's users run, on Python 3.8 (5 GB of PyTorch with CUDA)
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# On a CPU: until 97 % of 256 attempts succeed without exploration, 13 million environment steps at most. A cube that
# slips is lifted late, so some slip less.
ARGS ?= --task BoxGrasping --config train_cpu --task.randomize.box-friction 1 2 --train.stop-at-success 0.97

PYTHON38 ?= python3.8
VENV38 ?= .venv38
TESTS38 := $(patsubst %,tests/test_%.py,checkpoint cli doctor isaacgym plot ppo task_author workspace)

# As many tests at a time as there are cores; each takes up to 1 GB.
PARALLEL ?= -n auto --maxprocesses=6 --dist worksteal
ALL_THERE = [ "$$(dpkg -s $(DEBIAN) 2>/dev/null | grep -c 'ok installed')" = $(words $(DEBIAN)) ]
# What some tests draw with and look at: a browser, a virtual display, OpenGL without a screen.
DEBIAN := chromium chromium-driver xvfb xauth libegl1 libegl-mesa0 libosmesa6

.PHONY: train test test38 fast lint docs debian clean

train: $(VENV)/.installed
	$(BIN)/python train_ppo.py $(ARGS)

test: lint debian
	$(BIN)/python -m pytest -q -rs --durations=40 $(PARALLEL)

test38: $(VENV38)/.installed
	$(VENV38)/bin/python -m pytest -q -m "not mujoco" $(PARALLEL) $(TESTS38)

fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m "not slow" $(PARALLEL)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/tables.py
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build  # -q would hide warnings, and so let them pass

# Root installs it, anybody else reads how. The tests that want what is missing are skipped, and named at the end.
debian:
	@$(ALL_THERE) || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq; \
		export DEBIAN_FRONTEND=noninteractive; \
		for package in $(DEBIAN); do apt-get install -y -qq --no-install-recommends $$package >/dev/null; done; \
	fi || true
	@$(ALL_THERE) || \
		echo "Some tests will be skipped. To run them, too: sudo apt-get install $(DEBIAN)"

$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[gpu,dev,parity,works-with]"
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --ignore-requires-python cleanrl==1.2.0
	touch $@

$(VENV38)/.installed: setup.cfg constraints-38.txt
	$(PYTHON38) -m venv $(VENV38)
	$(VENV38)/bin/pip install -q --disable-pip-version-check -c constraints-38.txt -e ".[isaacgym,view,plot,wandb]" pytest pytest-xdist mujoco
	touch $@

clean:
	rm -rf $(VENV) $(VENV38) *.egg-info site
