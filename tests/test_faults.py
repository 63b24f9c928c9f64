"""Mistakes in a user's own task, and runs of strangers: what the command says of them, and what they cannot do."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

import configs
import dexhand_gym
import train_ppo
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.task import MEMBERS
from dexhand_gym.envs.vec_env import DexHandVecEnv

pytestmark = pytest.mark.slow

TASK = """
import torch
from dexhand_gym.envs.base_task import BaseTask, BaseTaskConfig

class Mine(BaseTask):
    {body}
"""
STATIC = "@staticmethod\n    def {name}(m, cfg):\n        "
BASE = "terms = BaseTask.rewards(m, cfg)\n        "


def rewards(change: str) -> str:
    return STATIC.format(name="rewards") + BASE + change + "\n        return terms"


def judged(name: str, result: str) -> str:
    return STATIC.format(name=name) + f"return {result}"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes the module of the task Mine, registered, and gives its path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    dexhand_gym.register_task("My/Mine-v0", "mine:Mine")

    def write(text: str) -> Path:
        sys.modules.pop("mine", None)
        (tmp_path / "mine.py").write_text(text)
        return tmp_path / "mine.py"

    sys.dont_write_bytecode = True
    yield write
    sys.dont_write_bytecode = False
    sys.modules.pop("mine", None)
    del dexhand_gym.registry["My/Mine-v0"]


def refused(line: str, capsys, *words: str) -> None:
    before = sorted(Path().rglob("*"))
    assert train_ppo.main([*line.split(), "--env.backend", "none", "--num-envs", "8"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert sorted(Path().rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            rewards("terms['alive'] = torch.ones(7, 1)"),
            ["reward term 'alive' is a tensor [7, 1]", "allowed is a tensor [7]"],
        ),
        (rewards("terms['alive'] = torch.ones(3)"), ["reward term 'alive' is a tensor [3] of float32"]),
        (rewards("terms['alive'] = 1.0"), ["reward term 'alive' is a float", "allowed is a tensor [7]"]),
        (rewards("terms['alive'] = terms['alive'].double()"), ["'alive' is a tensor [7] of float64"]),
        (rewards("terms = list(terms.values())"), ["the task's reward terms are a list: allowed is a dict"]),
        (rewards("terms = None"), ["the task's reward terms are a NoneType"]),
        (rewards("m['speeed']"), ["quantity: unknown name 'speeed'; did you mean '", "mine.py:9, rewards"]),
        (rewards("torch.ones(3) + torch.ones(2)"), ["RuntimeError", "mine.py:9, rewards"]),
        (rewards("1 / 0"), ["ZeroDivisionError: division by zero", "mine.py:9, rewards"]),
        (rewards("import nowhere"), ["ModuleNotFoundError: No module named 'nowhere'", "mine.py:9, rewards"]),
        (rewards("raise SystemExit(0)"), ["SystemExit", "mine.py:9, rewards"]),
        (rewards("assert False, 'two\\nlines'"), ["AssertionError: two lines", "mine.py:9, rewards"]),
        (judged("successes", "{'won': m['episode_step']}"), ["success criterion 'won'", "int64", "[7] of bool"]),
        (
            judged("failures", "{'lost': (m['tips'] > 9)[..., 0]}"),
            ["failure criterion 'lost' is a tensor [7, 5] of bool"],
        ),
        (judged("failures", "True"), ["the task's failure criterions are a bool"]),
        ("quantities = {**BaseTask.quantities, 'odd': lambda m, cfg: 3}", ["quantity 'odd' is a int"]),
        ("quantities = {**BaseTask.quantities, 'odd': lambda m, cfg: m['dof_pos'][0]}", ["quantity 'odd'", "[26]"]),
        (
            "quantities = {**BaseTask.quantities, 'odd': lambda m, cfg: m['nothing']}",
            ["quantity: unknown name 'nothing'"],
        ),
        ("timers = {**BaseTask.timers, 'long': 'nothing'}", ["Mine.timers['long']: unknown name 'nothing'"]),
        ("remembered = ('nothing',)", ["Mine.remembered: unknown name 'nothing'"]),
        ("def sample_start(self):\n        return {'hnad': 0}", ["sample_start() names 'hnad': allowed are hand"]),
        (
            "def sample_start(self):\n        return {'hand': torch.zeros(3)}",
            ["sample_start()'s 'hand' is a tensor [3]", "[7, 18]"],
        ),
        ("def sample_start(self):\n        return torch.zeros(3)", ["sample_start() returns a Tensor"]),
        (
            "def sample_start(self):\n        return {'hand': torch.full((self.num_envs, 18), torch.nan)}",
            ["sample_start()'s 'hand' is not finite"],
        ),
        (judged("successes", "{'time_out': m['episode_step'] > 9}"), ["criterion 'time_out' is there twice"]),
        (
            judged("successes", "{'x': m['episode_step'] > 9}")
            + "\n    "
            + judged("failures", "{'x': m['episode_step'] > 9}"),
            ["criterion 'x' is there twice"],
        ),
        ("config = dict", ["Mine.config", "allowed is a subclass of TaskConfig"]),
        (rewards("m['hand_pose'] += 1"), ["rewards() changes quantity 'bodies' in place"]),
        ("quantities = ['a']", ["Mine.quantities is a list: allowed is a dict, name -> a function"]),
        ("quantities = {'a': 3}", ["Mine.quantities['a'] = 3"]),
        (
            "quantities = {**BaseTask.quantities, 'a': lambda m: 1}",
            ["Mine.quantities['a'] = ", "a function (measured, cfg)"],
        ),
        ("remembered = ('dof_poss',)", ["Mine.remembered: unknown name 'dof_poss'; did you mean 'dof_pos'?"]),
        ("timers = {'long': 3}", ["Mine.timers['long'] = 3: allowed is the name of a quantity"]),
        ("timers = ['contact_binary']", ["Mine.timers is a list"]),
        ("remembered = 'hand_vel'", ["Mine.remembered = 'hand_vel': allowed is a tuple"]),
        ("remembered = (3,)", ["Mine.remembered = (3,)"]),
        (
            "physics = 'cone'",
            ["Mine.physics: unknown name 'cone'; did you mean 'cones'? Allowed: default, fast, cones"],
        ),
        ("physics = ['cones']", ["Mine.physics: unknown name ['cones']"]),
        ("train_defaults = ['gamma']", ["Mine.train_defaults is a list"]),
        ("train_defaults = {'gama': 0.9}", ["train_defaults", "did you mean 'gamma'"]),
        ("train_defaults = {'checkpoint': 'pretrained'}", ["train_defaults: unknown name 'checkpoint'"]),
        ("def scene(self):\n        return None", ["scene() returns a NoneType: allowed is a Scene"]),
    ],
)
def test_a_mistake_in_a_task_is_one_line(mine, capsys, body, words):
    mine(TASK.format(body=body))
    refused("--task Mine", capsys, *words)


FIELDS = """
from dataclasses import dataclass, field
from dexhand_gym.envs.base_task import BaseTask, BaseTaskConfig
@dataclass
class Config(BaseTaskConfig):
    {field}
class Mine(BaseTask):
    config = Config
"""


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("x: 'Decimal' = 3", "Config: the type of a field cannot be read, name 'Decimal' is not defined"),
        (
            "x: torch.Tensor = field(default_factory=lambda: torch.zeros(3))",
            "task.x = tensor([0., 0., 0.]): allowed is",
        ),
        ("x: Any = field(default_factory=object)", "allowed is what a file can hold"),
        ("x: int = 'five'", "task.x = 'five': allowed is a whole number"),
    ],
)
def test_a_field_that_no_file_can_hold_is_one_line(mine, capsys, field, message):
    mine("import torch\nfrom typing import Any\n" + FIELDS.format(field=field))
    refused("--task Mine", capsys, message)


@pytest.mark.parametrize("field", ["x: tuple = (1, 2)", "x: Tuple = (1, 2)", "x: List = field(default_factory=list)"])
def test_a_bare_type_takes_what_it_says(mine, field):
    mine("from typing import List, Tuple\n" + FIELDS.format(field=field))
    configs.parse(["--task", "Mine"]).validate()


@pytest.mark.parametrize("field", ["x: Dict = field(default_factory=lambda: {'a': 1})"])
def test_a_bare_dict_is_one_line(mine, capsys, field):
    mine("from typing import Dict\n" + FIELDS.format(field=field))
    refused("--task Mine", capsys, "task.x: its type is typing.Dict, allowed is one such as Dict[str, float]")


def test_a_dict_without_types_is_one_line(mine, capsys):
    mine(FIELDS.format(field="extra: dict = field(default_factory=lambda: {'a': 1.0})"))
    refused("--task Mine", capsys, "task.extra: its type is ", "allowed is one such as Dict[str, float]")


def test_a_field_may_have_the_name_of_one_of_ours(mine):
    mine(FIELDS.format(field="device: str = 'a motor'"))
    assert (
        train_ppo.main(
            [
                "--task",
                "Mine",
                "--env.backend",
                "none",
                "--num-envs",
                "4",
                "--max-iterations",
                "1",
                "--train.horizon-length",
                "8",
                "--train.num-minibatches",
                "2",
            ]
        )
        == 0
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import: mine\ntask: Mine", "'mine' is code; to import it say --import mine"),
        ("imports: [mine]", "'mine' is code; to import it say --import mine"),
        ("task: mine:Mine", "'mine:Mine' is code; to import it say --task mine:Mine"),
    ],
)
def test_a_file_imports_nothing(mine, capsys, text, words):
    mine("raise SystemExit('imported')")
    Path("a.yaml").write_text(text)
    refused("--config a.yaml", capsys, "config = 'a.yaml'", words)


def test_a_run_of_an_imported_task_says_what_to_import(mine, capsys):
    mine(TASK.format(body="train_defaults = {'units': (16,)}"))
    del dexhand_gym.registry["My/Mine-v0"]
    Path("own.py").write_text("import dexhand_gym\ndexhand_gym.register_task('My/Mine-v0', 'mine:Mine')\n")
    tiny = "--env.backend none --num-envs 2 --train.horizon-length 4 --train.num-minibatches 1 --max-iterations 1"
    assert train_ppo.main(f"--import own --task Mine --task.episode-length 3 --render False {tiny}".split()) == 0
    out = capsys.readouterr().out
    assert "--test --import own --checkpoint runs/Mine_train_" in out
    del dexhand_gym.registry["My/Mine-v0"]
    sys.modules.pop("own")
    refused(
        "--test --checkpoint latest --render False", capsys, "its task 'Mine' is code; to import it say --import own"
    )
    again = "--test --checkpoint latest --render False --import own --env.backend none --train.test-episodes 2"
    assert train_ppo.main(again.split()) == 0
    sys.modules.pop("own")


def test_a_misspelt_member_of_a_task_is_told(mine, capsys, caplog):
    mine(TASK.format(body=judged("sucesses", "{}") + "\n    def _rewards(self): pass"))
    dexhand_gym.envs.task_class("mine:Mine")
    assert "_rewards" not in caplog.text
    assert "Mine.sucesses is nothing that the environment reads; did you mean successes?" in caplog.text


@pytest.mark.parametrize("name", MEMBERS)
def test_whatever_member_is_misspelt(name, caplog):
    type("Mine", (DexHandVecEnv,), {f"{name}x": None})
    assert f"Mine.{name}x is nothing that the environment reads; did you mean {name}?" in caplog.text
    assert {"scene", "sample_start", "vary", "edit_spec", "rewards", "successes", "failures"} < {*MEMBERS}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["task 'mine:Mine'", "No module named 'mine'"]),
        ("import nowhere", ["No module named 'nowhere'", "mine.py:1"]),
        ("def broken(:", ["SyntaxError", "mine.py"]),
        ("class Mien: pass", ["task 'mine:Mine'", "did you mean 'Mien'"]),
        ("Mine = 3", ["mine:Mine", "DexHandVecEnv"]),
        ("class Mine: pass", ["mine:Mine", "DexHandVecEnv"]),
        ("raise KeyError('at import')", ["KeyError: 'at import'", "mine.py:1"]),
        (
            "from dexhand_gym.envs.vec_env import DexHandVecEnv\nclass Mine(DexHandVecEnv): pass",
            ["the task has no rewards(m, cfg)"],
        ),
    ],
)
def test_a_module_without_the_task_is_one_line(mine, capsys, text, words):
    if text is not None:
        mine(text)
    refused("--task Mine", capsys, *words)


@pytest.mark.parametrize("name", [":", "./mine.py:Mine", ".mine:Mine", "mine:", "mine:Mi-ne"])
def test_what_is_no_name_of_a_class_is_one_line(mine, capsys, name):
    mine(TASK.format(body="pass"))
    refused(f"--task {name}", capsys, f"task '{name}': allowed is package.module:Class")
    refused("--task Mine --import ..", capsys, "import = '..': allowed is the name of a module")


def test_terms_are_weighted_by_their_names(mine):
    body = """calls = 0
    @staticmethod
    def rewards(m, cfg):
        terms = BaseTask.rewards(m, cfg)
        Mine.calls += 1
        return terms if Mine.calls == 1 else dict(reversed(terms.items()))"""
    mine(TASK.format(body=body))
    theirs, ours = (
        make_vec_env(task, 2, backend="none") for task in ("mine:Mine", "dexhand_gym.envs.base_task:BaseTask")
    )
    for env in (theirs, ours):
        env.reset(seed=0)
    actions = torch.full((2, 18), 0.5)
    assert torch.equal(theirs.step(actions)[1], ours.step(actions)[1])


def test_a_task_that_ends_the_program_is_a_crash(mine, capsys):
    body = """calls = 0
    def step(self, actions):
        Mine.calls += 1
        if Mine.calls > 5:
            raise SystemExit(0)
        return super().step(actions)"""
    mine(TASK.format(body=body))
    line = "--task mine:Mine --env.backend none --num-envs 2 --train.horizon-length 8 --train.num-minibatches 1"
    assert train_ppo.main(line.split()) == 1
    assert "mine.py:10, SystemExit: 0" in capsys.readouterr().out


# --- A stranger's run ------------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A policy with a config.yaml that wants much."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs" / "nn").mkdir(parents=True)
    policy = Path(dexhand_gym.__file__).parent / "pretrained" / "BoxGrasping" / "v0" / "nn" / "policy.pth"
    (tmp_path / "theirs" / "nn" / "policy.pth").write_bytes(policy.read_bytes())
    config = yaml.safe_load((policy.parent.parent / "config.yaml").read_text())
    config["env"].update(render=True, render_host="0.0.0.0", num_envs=2**20, device="cuda:7", record_video=True)
    config["sim"].update(threads=900, dt=0.008)
    config["task"].update(episode_length=123)
    config["train"].update(
        log_level="error", max_iterations=7, name="theirs", save_frequency=1, compile=True, test=False
    )
    config["train"]["experiment"].update(max_test_runs=1, name="theirs")
    config["train"]["wandb"].update(enabled=True, project="theirs")
    file = tmp_path / "theirs" / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.parametrize("test", [True, False])
def test_of_a_strangers_run_only_task_physics_and_network_come_along(stranger, test):
    cfg = configs.parse(["--checkpoint", "theirs/nn/policy.pth", *["--test"] * test, "--task.max-box-push", "0.2"])
    ours = configs.parse(["--task", "BoxGrasping"])
    assert (cfg.task_name, cfg.task.episode_length, cfg.sim.dt) == ("BoxGrasping", 123, 0.008)
    assert cfg.task.max_box_push == 0.2, "what the user says overrides it"
    assert cfg.env == ours.env
    assert cfg.sim.threads == 0
    assert cfg.train.experiment == ours.train.experiment
    assert cfg.train.wandb == ours.train.wandb
    for name in ("log_level", "name", "save_frequency", "compile"):
        assert getattr(cfg.train, name) == getattr(ours.train, name)
    assert cfg.train.max_iterations == (500 if test else 7), "a training goes on as it was"


def test_the_file_whose_settings_come_along_is_named(stranger, capsys):
    line = "--test --checkpoint theirs/nn/policy.pth --env.backend none --train.test-episodes 2 --num-envs 2 --render False"
    assert train_ppo.main([*line.split(), "--task.episode-length", "3"]) == 0
    assert f"settings of {stranger}: task, physics and network\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["a: 1", "- 1", "params: {config: {num_actors: 4}}", "task_name: BaseTask\nnum_envs: 1000000", ""],
)
def test_a_config_that_is_of_no_run_is_left_aside(stranger, text):
    stranger.write_text(text)
    assert configs.parse(["--task", "BoxGrasping", "--test", "--checkpoint", "theirs"]).task.episode_length == 500
    stranger.rename(stranger.parent.parent / "config.yaml")
    (stranger.parent / "nn" / "policy.pth").rename("policy.pth")
    assert configs.parse(["--task", "BoxGrasping", "--test", "--checkpoint", "policy.pth"]).task.episode_length == 500


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("episode_length", 0, ["task.episode_length = 0"]),
        ("episode_length", "long", ["task.episode_length = 'long'"]),
        ("nonsense", 1, ["unknown option task.nonsense"]),
    ],
)
def test_a_mistake_in_a_runs_config_names_the_file(stranger, capsys, field, value, words):
    config = yaml.safe_load(stranger.read_text())
    config["task"][field] = value
    stranger.write_text(yaml.safe_dump(config))
    refused("--test --checkpoint theirs", capsys, f"error: {stranger}: ", *words)


def test_a_task_makes_a_vector_environment(mine):
    mine(TASK.format(body="pass"))
    env = make_vec_env("mine:Mine", 2, backend="none")
    assert env.num_envs == 2
    env.close()
