"""What holds for every test."""

import signal

# A shell in the background ignores Ctrl-C, and nohup the end of a terminal; so would all programs that tests start.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
