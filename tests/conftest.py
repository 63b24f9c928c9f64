"""What holds for every test."""

import logging
import os
import signal

import programs
import pytest

# A shell in the background ignores Ctrl-C, and nohup the end of a terminal; so would all programs that tests start.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# Several tests at a time share the cores, and in matrices of a test's size threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How MuJoCo draws is for a test to say.
os.environ.pop("MUJOCO_GL", None)


@pytest.fixture(autouse=True)
def opengl_for_what_draws(request):
    if request.node.get_closest_marker("draws"):
        programs.need("EGL", "OSMesa")


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    yield
    for process in programs.STARTED:
        process.kill()
        process.communicate()
    programs.STARTED.clear()


@pytest.fixture(autouse=True)
def logging_stays_as_it_was():
    """A program that ran in this process, and some libraries too, log to a stream that is closed after the test."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def pytest_collection_modifyitems(items):
    """What takes longest, most of it waiting for a browser, comes first."""
    items.sort(key=lambda item: item.path.name != "test_page.py")
