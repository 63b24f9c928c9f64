"""Foreign text is printable, and a log that cannot be written says so once."""

import contextlib
import logging
import os
import sys
from pathlib import Path

import pytest

from ppo.text import PrintableFormatter, SurvivingFile, SurvivingStream, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünï 手", "plain ünï 手"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\r\t and   more", "two lines and more"),
        ("\udcff\u202eright", "\\udcff\\u202eright"),
        ("\u2028\x85 \x9b31m", "\\x9b31m"),
    ],
)
def test_one_line_that_no_terminal_obeys(text, expected):
    assert printable(text) == expected
    assert printable(text).isprintable()


def test_long_texts_lose_their_middle():
    text = printable("begin" + "x" * 10**6 + "end", 100)
    assert len(text) < 102 and text.startswith("beginxxx") and text.endswith("xxxend") and "xx [...] xx" in text
    assert printable(text, 102) == text


def test_messages_keep_their_lines_and_paths_and_errors_get_none():
    formatter = PrintableFormatter("%(message)s")

    def format(message, *args):
        return formatter.format(logging.LogRecord("x", logging.INFO, "f", 1, message, args, None))

    assert format("table\n%s", "│ 1\n│ 2") == "table\n│ 1\n│ 2"
    assert format("%s and %s", Path("a\nb\x1b"), ValueError("c\nd")) == "a b\\x1b and c d"
    assert format("%s", "\x1b[2J") == "\\x1b[2J"
    assert format("%d", 5) == "5"


def record(text: str = "line") -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "f", 1, text, (), None)


@pytest.mark.parametrize("place", ["/dev/full", "/nowhere/train.log"])
def test_a_file_that_cannot_be_written_costs_one_line(capsys, place):
    handler = SurvivingFile(place, encoding="utf-8", delay=True)
    for _ in range(3):
        handler.handle(record())
    err = capsys.readouterr().err
    assert err in (
        f"{place}: not written, No space left on device\n",
        f"{place}: not written, No such file or directory\n",
    )
    with contextlib.suppress(OSError):
        handler.close()


def test_a_console_that_is_gone_costs_one_line(capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        handler = SurvivingStream(stream)
        for _ in range(3):
            handler.handle(record())
        assert capsys.readouterr().err == "standard output: not written, Broken pipe\n"
        stream.write("goes nowhere")


def test_other_errors_are_bugs_and_show_where(capsys):
    handler = SurvivingStream(sys.stderr)
    handler.handle(logging.LogRecord("x", logging.INFO, "f", 1, "%d", ("no number",), None))
    assert "TypeError" in capsys.readouterr().err
