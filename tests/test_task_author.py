"""What the author of a task may get wrong, told in one line that names it; and what an environment promises them."""

import dataclasses
import math
import sys

import pytest
import torch

from dexhand_gym.envs.base_task import BaseTask, BaseTaskConfig
from dexhand_gym.envs.box_grasping import BoxGrasping, BoxGraspingConfig
from dexhand_gym.envs.checks import STAGES, TAKEN
from dexhand_gym.envs.config import Config, EnvConfig, override
from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.objects import Box, Sphere
from dexhand_gym.sim import Scene


def make(cls=BaseTask, n=2, backend="none", **fields):
    config = cls.config() if callable(cls.config) else BaseTaskConfig()
    cfg = Config(task=config, env=EnvConfig(n, backend=backend, device="cpu"))
    return cls(override(cfg, fields), seed=0)


def refused(error, message, cls, **fields):
    with pytest.raises(error, match=message) as caught:
        make(cls, **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TAKEN)
def test_what_an_environment_has_cannot_be_a_member_of_a_task(name):
    instead = f"env.{name} = a function" if name in STAGES else "another name"
    refused(ValueError, f"Mine.{name}: .*allowed is {instead}", type("Mine", (BaseTask,), {name: lambda self, m: m}))
    env = make()
    assert hasattr(env, name) and name not in vars(type(env))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *((name, value, f"Mine.{name} = {value}: allowed is a method") for name in ("scene", "vary", "edit_spec") for value in (5, None)),
        *((name, 5, f"Mine.{name} = 5: allowed is a method") for name in ("rewards", "successes", "failures", "sample_start")),
        ("config", Config, "Mine.config is .*allowed is a subclass of TaskConfig"),
        ("config", 3, "Mine.config is 3: allowed is a subclass of TaskConfig"),
        ("quantities", {**BaseTask.quantities, "a": lambda m, cfg: m["b"], "b": lambda m, cfg: m["a"]}, "quantity '[ab]' needs itself"),
        ("timers", {"t": "t"}, "timers.'t'.*unknown name 't'"),
        ("timers", {"dof_pos": "contact_binary"}, "timers.'dof_pos'.*a quantity has that name"),
        ("timers", {"hand_vel": "contact_binary"}, "timers.'hand_vel'.*a quantity has that name"),
        *(("quantities", {**BaseTask.quantities, name: lambda m, cfg: m["dof_pos"]}, f"quantities.'{name}'.*has one of that name")
          for name in ("dof_pos", "prev_hand_vel", "curriculum_width", "start_hand")),
        ("quantities", {**BaseTask.quantities, "half": lambda m, cfg: m["dof_pos"][:1]}, r"'half' is a tensor \[1, 26\]"),
        ("remembered", ("nope",), "remembered: unknown name 'nope'"),
        ("remembered", ("dof_lower",), r"'dof_lower' is a tensor \[26\].*allowed is a tensor \[2\]"),
        ("figures", ("dof_lower",), r"'dof_lower' is a tensor \[26\].*allowed is a tensor \[2\]"),
        ("figures", "hand_vel", "figures = 'hand_vel': allowed is a tuple"),
        ("figures", ("l",), "Mine.figures: 'l' is the episode's return or length, allowed is another name"),
        ("rewards", lambda self, m, cfg: {**BaseTask.rewards(m, cfg), "termination_success": m["dof_pos"][:, 0]}, "an ending has that weight"),
        ("mirrors", {**BaseTask.mirrors, "hand_vle": (1, -2, 3)}, "mirrors: unknown name 'hand_vle'; did you mean 'hand_vel'"),
        ("mastered", lambda self, found: None, r"mastered\(\) returns None: allowed is a number"),
        ("mastered", lambda self, found: 80.0, r"mastered\(\) returns 80.0: allowed is a number, from 0 to 1"),
        ("mastered", lambda self, found: math.nan, r"mastered\(\) returns nan: allowed is a number"),
        ("mastered", lambda self, found: found["episodes"], r"mastered\(\) asks for 'episodes', which is not there"),
        *(("mirrors", {"hand_vel": kind}, "allowed is a pattern of signed places") for kind in ((1, 5), "bse", (), (1, 1), (0, 1), (1.0,))),
    ],
)  # fmt: skip
def test_a_member_of_a_task_that_is_none(name, value, message):
    refused(ValueError, message, type("Mine", (BaseTask,), {name: value}))


@pytest.mark.parametrize(
    ("quantity", "message"),
    [
        (lambda m, cfg: m["dof_pos"].numpy(), "'mine' is a ndarray: allowed is a tensor"),
        (lambda m, cfg: 1.0, "'mine' is a float: allowed is a tensor"),
        (lambda m, cfg: None, "'mine' is a NoneType: allowed is a tensor"),
        (lambda m, cfg: torch.tensor(1.0), r"'mine' is a tensor \[\] of float32"),
        (lambda m, cfg: m["dof_pos"].double(), "float64 on cpu: allowed is .* of float32 or"),
        (lambda m, cfg: m["dof_pos"].to("meta"), "on meta: allowed is .* on cpu"),
        (lambda m, cfg: m["dof_pos"].add_(1), "'mine', or one that it reads, changes quantity 'dof_pos' in place"),
    ],
)
@pytest.mark.parametrize("observed", [("mine",), ("dof_pos",)])
def test_a_quantity_that_is_none(quantity, message, observed):
    mine = type("Mine", (BaseTask,), {"quantities": {**BaseTask.quantities, "mine": quantity}})
    refused(ValueError, message, mine, policy_observation_keys=observed)


def test_what_a_curriculum_widens_by_is_a_share_at_any_time():
    for returned, message in ((None, "returns None"), (math.nan, "returns nan"), (1.5, "returns 1.5")):
        mastered = {"mastered": lambda self, found, later=returned: later if found else 0.0}
        env = make(type("Mine", (BaseTask,), mastered), curriculum=0.5, joint_position_noise=0.1)
        with pytest.raises(ValueError, match=rf"mastered\(\) {message}: allowed is a number, from 0 to 1"):
            env.statistics()
    env = make(type("Mine", (BaseTask,), {"mastered": lambda self, found: float(bool(found.clear()))}))
    assert "episodes" in env.statistics()


# --- Configs ---------------------------------------------------------------------------------------------------------


class Undecorated(BaseTaskConfig):
    reach: float = 0.3


class Untyped(BaseTaskConfig):
    episode_length = 77


@dataclasses.dataclass
class Modern(BaseTaskConfig):
    limit: "int | None" = None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Undecorated, "Undecorated.reach is no field: allowed is one in a class with @dataclass above it"),
        (Untyped, "Untyped.episode_length = 77 has no effect: allowed is episode_length: <its type> = 77"),
        (dataclasses.dataclass(type("Both", (Untyped,), {})), "Untyped.episode_length = 77 has no effect"),
    ],
)
def test_a_config_whose_fields_python_passes_over(config, message):
    refused(ValueError, message, type("Mine", (BaseTask,), {"config": config}))


@pytest.mark.skipif(sys.version_info < (3, 10), reason="int | None is newer")
def test_a_field_may_be_a_union_with_a_bar():
    mine = type("Mine", (BaseTask,), {"config": Modern})
    assert make(mine).task.limit is None and make(mine, limit=3).task.limit == 3
    refused(ValueError, r"task.limit = 'many': allowed is a whole number, or None", mine, limit="many")


def test_a_name_is_not_suggested_that_comes_from_the_mistake_itself():
    with pytest.raises(ValueError, match="nope") as caught:
        make(type("Mine", (BaseTask,), {"remembered": ("nope",)}))
    assert "prev_nope" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["targets", "bodies", "episode_step", "hand_pose", "contact_duration", "hand", "world"]
)
def test_an_object_cannot_have_the_name_of_something_else(name):
    class Mine(BaseTask):
        def scene(self):
            return Scene(objects=(Box(name),))

    refused(ValueError, f"'{name}' is the name of something else", Mine)


@pytest.mark.mujoco
def test_an_object_called_as_a_part_of_the_hand_or_of_another_object():
    class Mine(BaseTask):
        def scene(self):
            return Scene(objects=(Box("right_hand_base"),))

    refused(ValueError, "'right_hand_base' is the name of something else", Mine, backend="mujoco")


def test_an_object_of_any_name_is_grasped():
    env = make(BoxGrasping, object=Sphere(size=0.06))
    assert env.sim.actor_names == ["hand", "box"] and env.sim.scene.objects[0].shape == "sphere"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objects": Box()}, r"Scene.objects is a Box: allowed is a tuple, such as \(Box\(\),\)"),
        ({"ghosts": Box("hand_pose")}, "Scene.ghosts is a Box: allowed is a tuple"),
        ({"ghosts": ("hand_pose",)}, r"ghosts\[0\] is a str: allowed is an Object"),
        ({"ghosts": (Box("hand_pose", size=-1),)}, r"scene\(\).ghosts\[0\].size = -1: allowed is"),
        ({"ghosts": (Box("hand_pose"), Box("hand_pose"))}, "'hand_pose' is there twice"),
        ({"ghosts": (Box("nope"),)}, "ghosts: 'nope': allowed is the name of a quantity, which says where it is"),
        ({"ghosts": (Box("tips"),)}, r"'tips' of a ghost in scene\(\) is a tensor \[2, 5, 7\] .*allowed is a tensor \[2, 7\]"),
        ({"hand_height": "high"}, r"scene\(\).hand_height = 'high': allowed is a finite number"),
        ({"hand_height": math.nan}, r"scene\(\).hand_height = nan: allowed is a finite number"),
        ({"spacing": math.inf}, r"scene\(\).spacing = inf: allowed is a finite number"),
        ({"hand_quat": (1, 0)}, r"hand_quat = \(1, 0\): allowed is 4 values, each a finite number"),
        ({"hand_quat": (0, 0, 0, 0)}, r"hand_quat = .*allowed is a quaternion of length 1"),
    ],
)  # fmt: skip
def test_a_scene_that_is_none(fields, message):
    refused(ValueError, message, type("Mine", (BaseTask,), {"scene": lambda self: Scene(**fields)}))


# --- Starts and variations -------------------------------------------------------------------------------------------


class WithBall(BaseTask):
    ball = [0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0]
    hand_starts_at = 0.0

    def scene(self):
        return Scene(0.4, objects=(Box("box"), Sphere("ball", size=0.04)))

    def sample_start(self):
        hand = torch.full((self.num_envs, 18), self.hand_starts_at)
        return {"hand": hand, "ball": torch.tensor([self.ball] * self.num_envs)}


@pytest.mark.mujoco
def test_who_is_not_named_starts_at_rest():
    env = make(WithBall, backend="mujoco")
    assert env.measured["box"][:, :7].tolist() == [pytest.approx([0, 0, 0.025, 0, 0, 0, 1])] * 2


@pytest.mark.parametrize("quat", [[0, 0, 0, 0], [0, 0, 0, 2], [0.5, 0.5, 0, 0]])
def test_a_start_has_an_orientation(quat):
    ball = [0.0, 0.0, 0.1, *map(float, quat)]
    refused(ValueError, "'ball' has a quaternion that is not of length 1", type("Mine", (WithBall,), {"ball": ball}))


def test_a_start_beyond_the_limits_is_told(caplog):
    make(type("Mine", (WithBall,), {"hand_starts_at": 0.01}))
    assert "beyond" not in caplog.text
    make(type("Mine", (WithBall,), {"hand_starts_at": 1.9}))
    assert "'hand' is beyond the limits of" in caplog.text and "ff_mcp" in caplog.text


@pytest.mark.parametrize(
    ("variation", "message"),
    [
        ({"ball.mass": torch.tensor([0.1, -0.1])}, r"vary\(\)'s 'ball.mass' has values of -0.1: allowed are those above 0"),
        ({"ball.size": torch.zeros(2)}, r"vary\(\)'s 'ball.size' has values of 0"),
        ({"ball.friction": torch.tensor([1.0, float("nan")])}, r"vary\(\)'s 'ball.friction' is not finite"),
        ({"ball.mass": torch.ones(2, 1)}, r"variation 'ball.mass': shape \(2, 1\), allowed is a tensor \(2,\)"),
        ({"ball.mass": torch.ones(3)}, r"variation 'ball.mass': shape \(3,\)"),
        ({"ball.mass": 0.1}, r"variation 'ball.mass': shape \(\)"),
        ({"ball.mass": None}, r"variation 'ball.mass': shape \(\)"),
        ({"ball.maas": torch.ones(2)}, "variation: unknown name 'ball.maas'; did you mean 'ball.mass'"),
        ({3: torch.ones(2)}, "variation = .*allowed is a dict, name -> tensor"),
        (None, "variation = None: allowed is a dict"),
    ],
)  # fmt: skip
def test_a_variation_that_is_none_is_told_in_the_rehearsal(variation, message):
    class Mine(WithBall):
        def vary(self):
            return variation

    refused(ValueError, message, Mine)


# --- Stages, states and older names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *(
            (name, value, "a function")
            for name in ("pre_action_rule", "action_rule", "coupling")
            for value in (5, None)
        ),
        *(("post_action_filters", value, "a list of functions") for value in (5, None, len, ["text"])),
    ],
)
def test_a_stage_that_is_none(name, value, allowed):
    env = make()
    before = getattr(env, name)
    with pytest.raises(TypeError, match=f"env.{name} = .*: allowed is {allowed}"):
        setattr(env, name, value)
    assert getattr(env, name) is before


@pytest.mark.mujoco
def test_environments_of_any_seeds_share_their_states():
    for seed in range(6):
        cfg = override(Config(task=BoxGraspingConfig(), env=EnvConfig(2, backend="mujoco")), {"action_delay": (0, 3)})
        env = BoxGrasping(cfg, seed=seed)
        env.set_state(BoxGrasping(cfg, seed=seed + 100).get_state())


def test_a_task_that_remembers_actions_takes_its_state_back():
    class Mine(DexHandVecEnv):
        quantities = {**DexHandVecEnv.quantities, "actions": lambda m, cfg: 2 * m["last_actions"]}
        remembered = ("actions",)
        rewards = staticmethod(lambda m, cfg: {})

    env = make(Mine)
    env.step(torch.ones(2, 18))
    state = env.get_state()
    env.step(torch.zeros(2, 18))
    env.set_state(state)
    assert env.measured["prev_actions"].unique().tolist() == [0.0], "of the step before this one"
    assert env.memory()["last_actions"].unique().tolist() == [1.0]
    older = {name: value for name, value in state.items() if not name.startswith("next_")}
    older["prev_actions"] = state["next_prev_actions"]  # what a checkpoint had before these were two
    for saved in (state, older):
        env.set_state(saved)
        env.step(torch.zeros(2, 18))
        assert env.measured["prev_actions"].unique().tolist() == [2.0]


def test_a_state_of_other_types_is_told():
    env = make()
    state = env.get_state()
    for bad, message in (
        ([1], "state is a list"),
        ({**state, "targets": state["targets"].long()}, "its targets is of torch.int64, here torch.float32"),
        ({**state, "targets": torch.complex(state["targets"], state["targets"])}, "its targets is of torch.complex64"),
        ({**state, "steps": -1}, "its steps is -1: allowed is a count"),
    ):
        with pytest.raises(ValueError, match=message):
            env.set_state(bad)


def test_older_names_in_code():
    cfg = BoxGraspingConfig(init_hand_position_range=0.01)
    assert cfg.hand_position_noise == 0.01
    assert dataclasses.replace(cfg).hand_position_noise == 0.01
    with pytest.raises(AttributeError, match="'BoxGraspingConfig' object has no attribute 'finger_noise'"):
        _ = cfg.finger_noise
    refused(TypeError, "'task.init_hand_position_range' and 'hand_position_noise' are the same", BoxGrasping,
            **{"hand_position_noise": 0.1, "task.init_hand_position_range": 0.2})  # fmt: skip
    refused(TypeError, "unexpected keyword argument 'finger_noise': no such", BoxGrasping, finger_noise=0.1)


def test_prev_actions_is_there_without_the_hands_table():
    class Mine(DexHandVecEnv):
        quantities = {"contact_binary": lambda m, cfg: m["dof_pos"][:, :5] > 9}
        rewards = staticmethod(lambda m, cfg: {})

    env = make(Mine, policy_observation_keys=("prev_actions", "dof_pos"))
    assert env.step(torch.ones(2, 18))[0][:, :18].unique().tolist() == [1.0]
