"""The reader of YAML files: what values mean, what is refused, and that hostile files cost little."""

import math
import time

import pytest
import yaml

from ppo import strict_yaml


def test_plain_values_are_those_of_yaml_1_2():
    text = """
    ten: 010
    time: 1:30
    rate: 3e-4
    words: [yes, No, on, OFF, y, 1_000, 2024-01-01]
    booleans: [true, False, TRUE]
    nothing: [~, null, ]
    numbers: [0x1F, 0o17, -5, +1.5, .5, 1.]
    limits: [.inf, -.Inf]
    quoted: ['010', "true"]
    1: key
    """
    assert strict_yaml.load(text) == {
        "ten": 10,
        "time": "1:30",
        "rate": 3e-4,
        "words": ["yes", "No", "on", "OFF", "y", "1_000", "2024-01-01"],
        "booleans": [True, False, True],
        "nothing": [None, None],
        "numbers": [31, 15, -5, 1.5, 0.5, 1.0],
        "limits": [math.inf, -math.inf],
        "quoted": ["010", "true"],
        "1": "key",
    }
    assert math.isnan(strict_yaml.load(".nan"))


def test_words_stay_as_they_are_written():
    tree = strict_yaml.load("{a: 010, b: 3e-4, c: .inf, d: -.INF, e: true, f: null}", strict_yaml.Words)
    assert tree == {"a": "010", "b": "3e-4", "c": "inf", "d": "-inf", "e": True, "f": None}


def test_what_pyyaml_writes_is_read_back(tmp_path):
    texts = [
        "010",
        "1:30",
        "yes",
        "off",
        "true",
        "null",
        "~",
        "1_0",
        "0x1",
        ".inf",
        "1e5",
        "3e-4",
        "089",
        "0o7",
        "=",
        "<<",
    ]
    texts += [
        "2024-01-01",
        "",
        " a ",
        "a: b",
        "#",
        "\x1b[31m",
        "line\nline",
        "ünï",
        "\udcff",
        "1",
        "1.0",
        "!x",
        "*a",
        "&a",
    ]
    values = [1, -7, 1e-7, 1.5, 3e300, math.inf, -math.inf, True, False, None]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"texts": texts, "values": values}))
    words = strict_yaml.read(tmp_path / "a.yaml", words=True)
    assert words["texts"] == texts, "also those that are numbers in 1.2 but not in 1.1"
    assert strict_yaml.read(tmp_path / "a.yaml")["values"] == values
    assert [float(x) for x in words["values"][:7]] == values[:7]


def test_anchors_and_merges():
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nf: {y: 4, <<: [{y: 5, z: 6}, *a, {x: 9}]}\nd: {<<: &e {<<: *a, x: 5}}\ne: *e"
    a = {"x": 1, "y": 2}
    assert strict_yaml.load(text) == {
        "a": a,
        "b": a,
        "c": {"x": 1, "y": 3},
        "d": {"x": 5, "y": 2},
        "e": {"x": 5, "y": 2},
        "f": {"x": 1, "y": 4, "z": 6},
    }


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "is not YAML: line 3: 'a' is in line 1 already"),
        ("s:\n  a: 1\n  t: {c: 1, 'c': 2}", "is not YAML: line 3: 'c' is in line 3 already"),
        ("a: &a [*a]", "line 1: *a contains itself"),
        ("a: {<<: 3}", "is not YAML: line 1: << takes a mapping"),
        ("? [1]\n: 2", "line 1: a name is one word"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML: line 1: could not determine a constructor"),
        ("a: !!set {b}", "is not YAML: line 1: could not determine a constructor"),
        ("a: !!int b", "is not YAML: invalid literal"),
        ("a: [", "is not YAML: line 1: expected the node content"),
        ("a: 1\n---\nb: 2", "is not YAML: line 2: but found another document"),
        ("a: \x01", "is not YAML: unacceptable character"),
        ("- 1", "allowed are names and values, such as 'num_envs: 64'"),
        ("text", "allowed are names and values"),
        (b"a: \xff", "is not YAML: byte 3 is not UTF-8"),
        ("a: " + "9" * 5000, "is not YAML: Exceeds the limit"),
        (LAUGHS, "it has more than 10000 values"),
        ("a: " + "[" * 100000, "nested deeper than 40"),
        ("- " * 100000, "nested deeper than 40"),
        ("{" * 100000, "nested deeper than 40"),
        ("- 1\n" * 20000, "it has more than 10000 values"),
        ("#" * 2**20 + "#", "it is too large, allowed is 1024 KiB"),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) < 60 else "long",
)
def test_a_file_that_is_refused_costs_little_and_one_line(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    with pytest.raises(ValueError, match=f"^config = '{path}'") as error:
        strict_yaml.read(path, "config")
    assert time.process_time() - start < 10
    assert message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_files_that_are_none(tmp_path):
    for name, message in (("no.yaml", "No such file"), (".", "it is not a file"), ("x" * 300, "File name too long")):
        with pytest.raises(ValueError, match=rf"^config = '{tmp_path}.*: {message}"):
            strict_yaml.read(tmp_path / name, "config")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert strict_yaml.read(tmp_path / "empty.yaml") == {}


def test_a_scalar():
    assert [strict_yaml.scalar(text) for text in ("5", "1e-3", "True", "[", "")] == [5, 1e-3, True, "[", None]
