"""ObjectGrasping: another object of a set in every episode."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import dexhand_gym  # noqa: F401
from configs import parse
from dexhand_gym import tasks
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.object_grasping import ObjectGrasping
from dexhand_gym.meshes import distance_to_hull, load_mesh, write_mesh
from dexhand_gym.object_sets import load_set
from dexhand_gym.shape_tables import distances, shape_tables
from dexhand_gym.shapes import distance
from dexhand_gym.sim import PHYSICS
from tests.test_anyof import WEDGE

ID = "DexHand/ObjectGrasping-v0"


@pytest.fixture
def folder(tmp_path):
    """Three meshes, in millimetres."""
    import shutil

    for i, stretch in enumerate((1.0, 0.8, 1.2)):
        file, _ = write_mesh(1000 * stretch * WEDGE, None, (0.0, 1e9))
        shutil.copy(file, tmp_path / f"wedge_{i}.ply")
    return str(tmp_path)


def make(num_envs, objects, **fields):
    return make_vec_env(tasks()["ObjectGrasping"], num_envs, seed=1, device="cpu", objects=objects, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("objects", ["train", "held_out"])
def test_each_starts_at_rest_with_its_own_object(objects):
    """With the hand above it the object lies where it began; it is the one that it is said to be."""
    things = load_set(objects)
    env = make(256, objects, backend="mujoco")
    env.reset(seed=1)
    which = env.measured["box_which"].clone()
    assert len(which.unique()) > 100
    start = env.sim.root_state[:, 1].clone()
    halves = torch.tensor([things[i].extents for i in which.tolist()]) / 2
    assert torch.allclose(env.measured["box_half"], halves, atol=1e-6)
    assert torch.allclose(env.measured["box_size"][:, 0], 2 * halves.amax(1), atol=1e-6)
    still = torch.zeros(env.action_space.shape)
    for _ in range(25):
        env.step(still)
    end, weight = env.sim.root_state[:, 1], env.sim.net_contact_force[:, -1, 2] / 9.81
    assert (end[:, :3] - start[:, :3]).norm(dim=1).quantile(0.97) < 2e-3, "but those that a low hand touches"
    mass = torch.tensor([things[i].mass for i in which.tolist()])
    assert (weight / mass - 1).abs().quantile(0.9) < 0.02
    env.reset()
    assert (env.measured["box_which"] != which).float().mean() > 0.9


def test_objects_of_several_sets():
    things = load_set("wedges,train:box")
    env = make(200, "wedges,train:box", backend="mujoco")
    env.reset(seed=1)
    which = env.measured["box_which"].tolist()
    assert {things[i].shape for i in which} == {"mesh", "box"} and max(which) > 48
    halves = torch.tensor([things[i].extents for i in which]) / 2
    assert torch.allclose(env.measured["box_half"], halves, atol=1e-6)
    env.close()


def test_distances_are_those_of_the_shapes():
    """Within the 2.5 mm that straight lines between points 6 mm apart may be off."""
    things, tables = load_set("train"), shape_tables("train", 1.0, torch.device("cpu"))
    chosen = range(3, len(things), 17)
    generator = torch.Generator().manual_seed(0)
    ways = torch.nn.functional.normalize(torch.randn(len(chosen), 200, 3, generator=generator), dim=-1)
    points = ways * torch.rand(len(chosen), 200, 1, generator=generator) * 0.09
    found = distances(tables, torch.tensor(chosen), points)
    for row, at, i in zip(found, points, chosen):
        thing = things[i]
        if thing.shape == "mesh":
            (hull,) = load_mesh(thing.file, thing.first_size).hulls
            exact = torch.from_numpy(distance_to_hull(at.double().numpy(), hull)).float()
        else:
            exact = distance(thing.shape, at[None], torch.tensor(thing.extents).view(1, 1, 3) / 2)[0]
        assert (row - exact).abs().max() < 2.6e-3, thing.name


@pytest.mark.slow
def test_points_are_on_the_surface_and_seen_by_the_critic_only():
    env = make(32, "train", backend="mujoco")
    _, info = env.reset(seed=2)
    plain = gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=1, device="cpu")
    assert env.single_observation_space == plain.unwrapped.single_observation_space
    assert info["critic_obs"].shape[1] == plain.unwrapped.single_critic_space.shape[0] + 96
    points = env.measured["object_points"]
    tables = shape_tables("train", 1.0, torch.device("cpu"))
    assert distances(tables, env.measured["box_which"], points).max() < 2.8e-3, "corners, between points 6 mm apart"
    assert distances(tables, env.measured["box_which"], 1.3 * points).min(1).values.max() > 1e-3


def test_a_folder_of_meshes(folder):
    env = make(6, folder, mesh_unit=0.001, backend="mujoco")
    env.reset(seed=0)
    assert {round(x, 3) for x in env.measured["box_size"][:, 0].tolist()} <= {0.06, 0.048, 0.072}
    saved, which = env.get_state(), env.measured["box_which"].clone()
    env.reset()
    env.reset()
    env.set_state(saved)
    assert torch.equal(env.measured["box_which"], which)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--task.objects trian", "task.objects: unknown name 'trian'; did you mean 'train'?"),
        ("--env.object.size 0.06", "env.object.size = 0.06: this task has the objects of"),
        ("--task.success-height 0.04", "task.success_height = 0.04: allowed is more than 0.045,"),
        ("--task.randomize.box-size 0.04 0.06", "task.randomize.box_size = (0.04, 0.06): allowed for a mesh is None"),
    ],
)
def test_mistakes_cost_one_line(options, message):
    cfg = parse(["--task", "ObjectGrasping", "--device", "cpu", *options.split()])
    with pytest.raises(ValueError, match=re.escape(message)):
        make_vec_env(tasks()["ObjectGrasping"], 2, cfg)
    with pytest.raises(ValueError, match=re.escape(message)):
        make_vec_env(tasks()["ObjectGrasping"], 2, cfg, **{"env.backend": "none"})


@pytest.mark.slow
def test_pictures_show_each_its_own():
    env = make(
        8, "held_out", backend="mujoco", render_mode="rgb_array", video_size=(160, 160), **{"env.camera.follow": False}
    )
    env.reset(seed=5)
    pictures = np.array(env.render()).astype(int)
    things = load_set("held_out")
    for picture, i in zip(pictures, env.measured["box_which"].tolist()):
        red, green, blue = picture.reshape(-1, 3).T
        color = np.array(things[i].color)
        shade = np.c_[red, green, blue] / np.maximum(np.c_[red, green, blue].max(1, keepdims=True), 1)
        alike = (np.abs(shade - color / color.max()) < 0.12).all(1) & (np.c_[red, green, blue].max(1) > 60)
        assert alike.sum() > 30, things[i].name


def test_a_curriculum_begins_with_what_is_thick():
    env = make(400, "held_out:box", backend="none", randomize={"curriculum": 0.7})
    thickness = torch.tensor([min(thing.extents) for thing in load_set("held_out:box")])
    env.reset(seed=1)
    easy = thickness[env.measured["box_which"]].min()
    assert easy == thickness.sort(descending=True).values[6], "the thickest 0.2 * 32 = 6.4"
    env.width.fill_(0.5)
    env.reset(seed=1)
    assert len(env.measured["box_which"].unique()) == 20, "0.6 * 32 = 19.2"
    env.width.fill_(1.0)
    env.reset(seed=1)
    assert len(env.measured["box_which"].unique()) == 32


def test_what_failed_is_tried_again():
    """With retry 0.8 about 0.8 of 1000 failed attempts have the same object again; a test, an episode that was broken off
    and one that succeeded have any of the 32, and a seed is a seed."""
    env = make(1000, "held_out:box", randomize={"retry": 0.8}, episode_length=2)
    first = env.reset(seed=1) and env.measured["box_which"].clone()
    assert len(first.unique()) == 32

    def kept(steps=2):
        before = env.measured["box_which"].clone()
        for _ in range(steps):
            env.step(torch.zeros(1000, 18))
        return (env.measured["box_which"] == before).float().mean().item()

    assert kept() == pytest.approx(0.8 + 0.2 / 32, abs=0.04)
    env.step(torch.zeros(1000, 18))
    before = env.measured["box_which"].clone()
    env.reset()
    assert (env.measured["box_which"] == before).float().mean() < 0.06, "broken off, it has not failed"
    kept()
    env.reset(seed=1)
    assert torch.equal(env.measured["box_which"], first)
    env.widen()
    assert kept() < 0.06


class EverySecond(ObjectGrasping):
    """Succeeds at once in every second environment."""

    @staticmethod
    def successes(m, cfg):
        return {"at_once": torch.arange(len(m["push"])) % 2 == 0}


def test_what_succeeded_is_not_tried_again():
    fields = {"task.objects": "held_out:box", "task.randomize.retry": 0.99, "task.episode_length": 1}
    env = make_vec_env(f"{__name__}:EverySecond", 400, seed=1, device="cpu", **fields)
    before = env.measured["box_which"].clone()
    *_, info = env.step(torch.zeros(400, 18))
    same = (env.measured["box_which"] == before).float()
    assert info["success"][::2].all() and not info["success"][1::2].any()
    assert same[::2].mean() < 0.1 and same[1::2].mean() > 0.95


def test_a_folder_is_found_from_everywhere(folder, monkeypatch):
    monkeypatch.chdir(Path(folder).parent)
    cfg = parse(["--task", "ObjectGrasping", "--task.objects", Path(folder).name, "--task.mesh-unit", "0.001"])
    assert cfg.task.objects == folder
    assert parse(["--task", "ObjectGrasping"]).task.objects == "train"
    several = f"train:box,{Path(folder).name},wedges"
    assert parse(["--task", "ObjectGrasping", "--task.objects", several]).task.objects == f"train:box,{folder},wedges"
    (Path(folder) / "a,b").mkdir()
    monkeypatch.chdir(Path(folder) / "a,b")
    Path("c").mkdir()
    assert parse(["--task", "ObjectGrasping", "--task.objects", "c"]).task.objects == f"{folder}/a,b/c"
    with pytest.raises(ValueError, match="a,b/c': allowed beside others is one without a comma"):
        parse(["--task", "ObjectGrasping", "--task.objects", "train,c"])


def test_a_state_of_another_set_is_none():
    """Numbers of objects mean others there; so a training that goes on begins new episodes."""
    boxes, balls = make(4, "train:box", curriculum=0.5), make(4, "train:sphere", curriculum=0.5)
    for env in (boxes, balls):
        env.reset(seed=1)
    state, before = boxes.get_state(), balls.get_state()
    with pytest.raises(ValueError, match="its box_set is 48 objects, .*, here 48 objects, "):
        balls.set_state(state)
    assert all(torch.equal(x, before[name]) for name, x in balls.get_state().items() if isinstance(x, torch.Tensor))
    boxes.set_state({name: x for name, x in state.items() if name != "box_set"})  # of an older version
    for name, value, message in (("box_which", -1, "no count from 0 to 47"), ("width", 7, "no count from 0 to 1")):
        with pytest.raises(ValueError, match=f"its {name} is {message}"):
            boxes.set_state({**state, name: torch.full_like(state[name], value)})
    boxes.close()
    balls.close()


def test_a_set_has_the_same_name_wherever_its_meshes_lie(tmp_path):
    from dexhand_gym.envs.state import name_of_set
    from dexhand_gym.objects import AnyOf

    here = load_set("held_out:prism")
    there = tuple(replace(thing, file=str(tmp_path / Path(thing.file).name)) for thing in here)
    other = (replace(here[0], file=str(tmp_path / "another.ply")), *here[1:])
    names = [name_of_set(AnyOf(name="box", of=of)) for of in (here, there, other)]
    assert names[0] == names[1] != names[2]


def test_its_physics_is_its_own_however_it_is_made():
    """What one environment changes is not changed for the next."""
    for task, physics in (("ObjectGrasping", "cones"), ("BoxGrasping", "default"), ("ObjectGrasping", "cones")):
        env = gymnasium.make_vec(f"DexHand/{task}-v0", num_envs=2, backend="none", device="cpu")
        assert env.unwrapped.cfg.sim == PHYSICS[physics]
        env.unwrapped.cfg.sim.solver.cone = "other"
        env.close()
    env = gymnasium.make("DexHand/ObjectGrasping-v0", backend="none", device="cpu", ls_iterations=5)
    assert (env.unwrapped.vec_env.cfg.sim.solver.ls_iterations, env.unwrapped.vec_env.cfg.sim.solver.cone) == (
        5,
        "elliptic",
    )
    env.close()
