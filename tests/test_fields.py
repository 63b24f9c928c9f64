"""What values the fields of a config may have, asked from Python; the command line's tests are in test_cli.py."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, Literal, Optional, Tuple

import gymnasium
import numpy as np
import pytest

from configs import default_config
from dexhand_gym.envs.config import Config, _fields
from dexhand_gym.fields import Annotated, Length, Matching, Range, check
from ppo.ppo import PPOConfig


@dataclass
class Inner:
    share: Annotated[float, Range(0, 1)] = 0.5


@dataclass
class Outer:
    count: Annotated[int, Range(1, 8, note="8: all")] = 2
    half: Annotated[float, Range(0, 2, above=True)] = 1.0
    free: float = 0.0
    goal: Annotated[float, Range(-np.inf, np.inf)] = np.inf
    on: bool = False
    mode: Literal["slow", "fast"] = "slow"
    word: Annotated[str, Matching("[a-z]+", "small letters")] = "a"
    pair: Optional[Tuple[int, int]] = None
    many: Annotated[Tuple[str, ...], Length(1, 3)] = ("a",)
    even: Annotated[int, Range(2, 10, even=True)] = 2
    bare: tuple = ()
    weights: Dict[str, float] = field(default_factory=lambda: {"a": 1.0})
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, r"count = 0: allowed is a whole number, 1 to 8 \(8: all\)"),
        ("count", 9, "count = 9: allowed"),
        ("count", 2.0, "count = 2.0: allowed is a whole number"),
        ("count", True, "count = True: allowed"),
        ("count", "4", "count = '4': allowed"),
        ("count", None, "count = None: allowed"),
        ("half", 0, "half = 0: allowed is a number, more than 0, at most 2"),
        ("half", np.nan, "half = nan: allowed"),
        ("half", np.inf, "half = inf: allowed"),
        ("half", [1.0], r"half = \[1.0\]: allowed"),
        ("free", -np.inf, "free = -inf: allowed is a finite number"),
        ("free", 1e39, "free = 1e[+]39: allowed"),  # more than float32 holds
        ("free", 1j, "free = 1j: allowed"),
        ("free", False, "free = False: allowed"),
        ("goal", np.nan, "goal = nan: allowed"),
        ("on", 1, "on = 1: allowed is True, False"),
        ("mode", "fats", "mode: unknown name 'fats'; did you mean 'fast'. Allowed: slow, fast"),
        ("mode", 3, "mode = 3: allowed is slow, fast"),
        ("word", "A", "word = 'A': allowed is small letters"),
        ("word", "a\n", r"word = 'a\\n': allowed"),
        ("pair", (1,), r"pair = \(1,\): allowed is 2 values, each a whole number, or None"),
        ("pair", 3, "pair = 3: allowed"),
        ("many", (), r"many = \(\): allowed"),
        ("many", "ab", "many = 'ab': allowed"),  # not the letters a and b
        ("even", 3, "even = 3: allowed is a whole number, 2 to 10 and even"),
        ("weights", {"a": np.nan}, "weights.a = nan: allowed"),
        ("weights", 3, "weights = 3: allowed is names, each with a finite number"),
        ("inner", 3, "inner = 3: allowed is an Inner"),
        ("inner", Inner(2), "inner.share = 2: allowed is a number, 0 to 1"),
        ("word", "x" * 9999 + "1", r"word = 'x{199}\.\.\. \(10002 characters\): allowed"),
    ],
)
def test_what_is_refused(name, value, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        check(dataclasses.replace(Outer(), **{name: value}))
    assert "\n" not in str(error.value)


def test_what_stands_for_a_value_becomes_one():
    config = Outer(np.int64(3), np.float32(0.5), 1, on=np.bool_(True), pair=[1, np.int8(2)], many=["b"], bare=(1, "x"))
    config.weights["a"] = np.float64(2)
    check(config)
    assert config == Outer(3, 0.5, 1.0, on=True, pair=(1, 2), many=("b",), bare=(1, "x"), weights={"a": 2.0})
    types = [type(getattr(config, name)) for name in ("count", "half", "free", "on", "pair")]
    assert types == [int, float, float, bool, tuple]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gravity": 9.81}, "sim.gravity = 9.81: allowed is 3 values, each a number, -1000 to 1000"),
        ({"dt": float("inf")}, "sim.dt = inf"),
        ({"dt": 1e-320}, "sim.dt = 1e-320"),
        ({"mass": float("inf")}, "env.object.mass = inf"),
        ({"mass": "heavy"}, "env.object.mass = 'heavy'"),
        ({"episode_length": 5.5}, "task.episode_length = 5.5: allowed is a whole number"),
        ({"task.reward_weights.lift": float("nan")}, "task.reward_weights.lift = nan"),
        ({"reward_weights": None}, "task.reward_weights = None"),
        ({"num_envs": "4"}, "env.num_envs = '4': allowed is a whole number"),
        ({"num_envs": 10**9}, "env.num_envs = 1000000000: allowed is a whole number, 1 to 1048576"),
        ({"box": 3}, "env.object = 3: allowed is an Object"),
        ({"fixed": True}, "env.object.fixed = True: allowed is False"),
        ({"rolling_friction": 0.01}, "env.object.rolling_friction = 0.01: allowed is condim = 6 with it"),
        ({"success_height": 0.02}, "task.success_height = 0.02: allowed is more than 0.025"),
        ({"randomize": {"box_size": (0.06, 0.04)}}, r"task.randomize.box_size = \(0.06, 0.04\)"),
        ({"randomize": {"action_delay": (0, 10**9)}}, r"task.randomize.action_delay = \(0, 1000000000\)"),
        ({"decimation": 100, "dt": 0.1}, "sim.dt [*] task.decimation = 10 s"),
        ({"decimation": 50, "sim.substeps": 50}, "sim.substeps [*] task.decimation = 2500"),
        ({"policy_observation_keys": ()}, r"task.policy_observation_keys = \(\)"),
        ({"policy_observation_keys": "hand_pose"}, "task.policy_observation_keys = 'hand_pose'"),
        ({"policy_observation_keys": ("hand_vel", "hand_vel")}, "task.policy_observation_keys = .* is there twice"),
        ({"render_port": 70000}, "env.render_port = 70000"),
        ({"render_host": "a\0b"}, r"env.render_host = 'a\\x00b'"),
        ({"cfg": 3}, "cfg = 3: allowed is a dexhand_gym.envs.config.Config"),
        ({"task": 3}, "task '3': allowed is package.module:Class"),
        ({"cone": "eliptic"}, "sim.solver.cone: unknown name 'eliptic'; did you mean 'elliptic'"),
    ],
)
def test_make_vec_refuses_what_the_command_line_refuses(fields, message):
    fields = {"num_envs": 2, **fields}
    with pytest.raises(ValueError, match=f"^{message}"):
        gymnasium.make_vec("dexhand_gym:DexHand/BoxGrasping-v0", backend="none", **fields)


def test_numpy_numbers_are_numbers():
    env = gymnasium.make_vec(
        "dexhand_gym:DexHand/BoxGrasping-v0",
        num_envs=np.int64(2),
        backend="none",
        mass=np.float32(0.25),
        gravity=[0, 0, -1],
    )
    cfg: Config = env.unwrapped.cfg
    assert (cfg.env.num_envs, cfg.env.box.mass, cfg.sim.gravity) == (2, 0.25, (0.0, 0.0, -1.0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("gamma", 2.0, "gamma = 2.0: allowed is a number, 0 to 1"),
        ("score_to_win", float("nan"), "score_to_win = nan"),
        ("units", (), r"units = \(\)"),
        ("units", (0,), r"units = \(0,\)"),
        ("units", (10**6,), r"units = \(1000000,\)"),
        ("name", "a/b", "name = 'a/b'"),
        ("name", "last_a", "name = 'last_a'"),
        ("name", ".a", "name = '.a'"),
        ("name", "a" * 300, "name = 'aaa"),
        ("activation", "elo", "activation: unknown name 'elo'; did you mean 'elu'"),
        ("num_minibatches", 7, "num_minibatches = 7: allowed is a divisor of num_envs [*] horizon_length = 128"),
        ("seed", 2**32, "seed = 4294967296"),
    ],
)
def test_ppo_refuses(field, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        PPOConfig(**{field: value}).validate(4)


def test_ppo_keeps_no_checkpoints_that_it_does_not_save():
    with pytest.raises(ValueError, match="^keep_checkpoints = 3: allowed is 0 where save_frequency = 0"):
        PPOConfig(keep_checkpoints=3, save_frequency=0).validate(4)
    PPOConfig(score_to_win=float("inf")).validate(4)


@pytest.mark.parametrize("task", ["BoxGrasping", "BlindGrasping", "BaseTask"])
def test_short_names_stay_unique(task):
    """`gravity=` and all others that scripts use: a new field must not make an old name ambiguous."""
    shorts = Counter(name.rpartition(".")[2] for name in _fields(default_config(task)))
    assert {name for name, count in shorts.items() if count > 1} == {"compile", "cuda_graphs", "name", "substeps"}
