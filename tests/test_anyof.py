"""An object that is another one in each environment, on both MuJoCo engines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dexhand_gym.object_sets import load_set
from dexhand_gym.objects import AnyOf, Box, Capsule, Cylinder, Ellipsoid, Mesh, Object, Sphere
from dexhand_gym.resting import resting_poses
from dexhand_gym.sim import Scene, SimConfig, make_sim

WEDGE = np.array([[0, 0, 0], [6, 0, 0], [0, 4, 0], [6, 4, 0], [0, 0, 3], [0, 4, 3]]) / 100
engines = pytest.mark.parametrize("engine", ["mujoco", pytest.param("mjwarp", marks=pytest.mark.slow)])


def things():
    return (
        Box(size=(0.03, 0.05, 0.08), mass=0.2, friction=0.7),
        Sphere(size=0.05, mass=0.05),
        Cylinder(size=(0.04, 0.06), mass=0.1),
        Capsule(size=(0.03, 0.08), mass=0.15),
        Ellipsoid(size=(0.03, 0.04, 0.06), mass=0.08),
        Mesh.of_vertices(WEDGE, name="wedge", mass=0.12, friction=1.3),
        Mesh.of_vertices(0.8 * WEDGE[::-1] * (1, 1, 1.5), name="steep", mass=0.3),
        Box(name="other", size=0.06, mass=0.4),
    )


def mixed(of, engine, num_envs=None):
    scene = Scene(objects=(AnyOf(of=of),))
    return make_sim(scene, num_envs or len(of), SimConfig(), 1, engine, "cpu")


def put(sim, poses, which=None):
    """Objects one metre beside the hand, at these heights and orientations [N, 5]."""
    if which is not None:
        sim.vary({"object.which": torch.as_tensor(which)})
    sim.root_state[:, 1] = 0.0
    sim.root_state[:, 1, 0] = 1.0
    sim.root_state[:, 1, 2:7] = torch.as_tensor(np.asarray(poses)).float()
    sim.write_state(torch.ones(sim.num_envs, dtype=torch.bool))


def run(sim, steps):
    hold = sim.dof_state[..., 0].clone()
    for _ in range(steps):
        sim.step(hold)
    return sim.root_state[:, 1].clone()


def weighed(sim):
    return sim.net_contact_force[:, -1, 2].numpy() / 9.81


def test_all_of_a_set_lie_still_in_one_model_and_weigh_what_they_should():
    of = load_set("train")
    sim = mixed(of, "mujoco")
    put(sim, [resting_poses(thing)[0] for thing in of], range(len(of)))
    start = sim.root_state[:, 1].clone()
    end = run(sim, 50)
    assert (end[:, :3] - start[:, :3]).norm(dim=1).max() < 2e-3
    assert (end[:, 3:7] * start[:, 3:7]).sum(1).abs().min() > np.cos(np.radians(1.5))
    assert weighed(sim) == pytest.approx([thing.mass for thing in of], rel=2e-3)


@engines
def test_each_falls_as_it_does_alone(engine):
    """From a tilt, over edges: for 0.3 s, before what little differs between two models grows."""
    of = things()
    tilted = np.array([0.09, 0.3, 0.1, 0.2, (1 - 0.3**2 - 0.1**2 - 0.2**2) ** 0.5])
    sim = mixed(of, engine)
    put(sim, [tilted] * len(of), range(len(of)))
    together = run(sim, 15)
    for i, thing in enumerate(of):
        alone = make_sim(Scene(objects=(thing,)), 1, SimConfig(), 1, engine, "cpu")
        put(alone, [tilted])
        apart = run(alone, 15)
        assert together[i, :7].numpy() == pytest.approx(apart[0, :7].numpy(), abs=2e-4), thing.name
        assert float(together[i, 9]) == pytest.approx(float(apart[0, 9]), abs=5e-3), thing.name


@engines
def test_another_one_in_some_environments_and_the_others_stay(engine):
    of = things()
    sim = mixed(of, engine, 4)
    rest = np.array([resting_poses(thing)[0] for thing in of])
    put(sim, rest[[0, 0, 0, 0]])
    run(sim, 40)
    assert weighed(sim) == pytest.approx([0.2] * 4, rel=5e-3)  # the first, unless something is said
    sim.vary({"object.which": torch.tensor([1, 5, 6, 7])}, torch.tensor([False, True, False, True]))
    put(sim, rest[[0, 5, 0, 7]])
    saved = {name: x.clone() for name, x in sim.memory().items()}
    run(sim, 40)
    assert weighed(sim) == pytest.approx([0.2, 0.12, 0.2, 0.4], rel=5e-3)
    sim.vary({"object.which": torch.tensor([2, 2, 2, 2]), "object.mass": torch.tensor([0.01, 0.5, 0.1, 0.1])})
    put(sim, rest[[2, 2, 2, 2]])
    run(sim, 40)
    assert weighed(sim) == pytest.approx([0.01, 0.5, 0.1, 0.1], rel=5e-3)
    for name, x in sim.memory().items():
        x.copy_(saved[name])
    run(sim, 40)
    assert weighed(sim) == pytest.approx([0.2, 0.12, 0.2, 0.4], rel=5e-3)


def test_friction_is_that_of_the_choice():
    """On a slope made of gravity: tan 45 degrees is more than 0.7 and less than 1.3."""
    of = things()
    scene = Scene(objects=(AnyOf(of=of),))
    g = 9.81 / 2**0.5
    sim = make_sim(scene, 2, SimConfig(gravity=(g, 0.0, -g)), 1, "mujoco", "cpu")
    put(sim, [resting_poses(of[0])[0], resting_poses(of[5])[0]], [0, 5])
    end = run(sim, 20)
    assert end[0, 0] > 1.1
    assert end[1, 0] < 1.01


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ((), "of = .*allowed are one or more objects"),
        ((Box(), Box()), "two have this name"),
        ((Box(fixed=True),), "allowed is a free object of one part"),
        ((Sphere(condim=4), Sphere(name="b")), "condim = 3, allowed is that of 'sphere', 4"),
        ((Box(size=(0.1, 0.2)),), "of 'box': size = "),
    ],
)
def test_choices_that_do_not_go_together(of, message):
    with pytest.raises(ValueError, match=message):
        AnyOf(of=of).validate()


def test_what_there_is_not():
    sim = mixed(things(), "mujoco", 2)
    with pytest.raises(ValueError, match="unknown name 'object.size'"):
        sim.vary({"object.size": torch.ones(2)})
    plain = make_sim(Scene(objects=(Object(),)), 2, SimConfig(), 1, "mujoco", "cpu")
    with pytest.raises(ValueError, match="unknown name 'box.which'"):
        plain.vary({"box.which": torch.zeros(2)})
