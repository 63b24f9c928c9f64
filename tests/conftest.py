"""What holds for every test."""

import signal

import programs
import pytest

# A shell in the background ignores Ctrl-C, and nohup the end of a terminal; so would all programs that tests start.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    yield
    for process in programs.STARTED:
        process.kill()
        process.communicate()
    programs.STARTED.clear()


@pytest.fixture(scope="module")
def one_thread():
    """Matrices of the size of a test's only wait for each other's threads."""
    import torch  # not above: Isaac Gym wants to come first

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
