"""What test_isaacgym.py runs where isaacgym is the stand-in: each check of examples/isaac_gym_check.py fails when what it
is about is broken in the stand-in; and the grasp is repeated as it should."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from isaacgym import gymapi

from examples import isaac_gym_check as checks

N = 3
Gym, Env = gymapi.Gym, gymapi.Env


KEPT = []  # descriptors do not keep tensors alive


def changed(owner, name, make):
    """A way to break the stand-in: `make` gets the function and returns another."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, make(getattr(owner, name)))


def then(owner, name, spoil):
    """The function as it is, and `spoil` of what it returns."""

    def make(function):
        def spoiled(*args, **kwargs):
            result = function(*args, **kwargs)
            return spoil(result, *args)

        return spoiled

    return changed(owner, name, make)


def ignored(name):
    """A setter that says that it is done and does nothing."""
    return changed(Gym, name, lambda function: lambda *args: True)


def scaled(field, factor):
    def spoil(rows, *args):
        rows[field] *= factor
        return rows

    return spoil


def body(**wrong):
    def spoil(bodies, *args):
        for name, value in wrong.items():
            setattr(bodies[9], name, value)  # of a finger
        return bodies

    return spoil


def shifted(by):
    def spoil(rows, *args):
        rows[0, 0] += by
        return rows

    return spoil


def lost(tensor):
    KEPT.append(tensor.get()[:-1])
    return gymapi.Tensor(KEPT[-1])


def too_late(function):
    """Acquired after the first step, it is a tensor that nothing is written to."""

    def acquire(gym, sim, kind, rows, columns):
        if sim.stepped:
            KEPT.append(torch.zeros(rows, columns))
            return gymapi.Tensor(KEPT[-1])
        return function(gym, sim, kind, rows, columns)

    return acquire


def spread(function):
    def put(gym, actor, row):
        for env in actor.env.sim.envs if row[2] > 1.5 else [actor.env]:
            function(gym, env.actors[actor.env.actors.index(actor)], row)

    return put


def half_time(function):
    return lambda env, substeps: function(env, substeps // 2)


def one_box(function):
    return lambda gym, sim, width, height, depth, options: function(gym, sim, 0.05, 0.05, 0.05, options)


def of_water(function):
    def create(gym, sim, width, height, depth, options):
        options.density = 1000.0
        return function(gym, sim, width, height, depth, options)

    return create


def stale(function):
    """Forces stay what they were when nothing touches any more."""

    def step(env, substeps):
        before = env.forces.copy()
        function(env, substeps)
        env.forces[:] = np.where(env.forces == 0, before, env.forces)

    return step


def numb(function):
    def step(env, substeps):
        function(env, substeps)
        env.forces[:] = 0

    return step


def heavy(function):
    def load(gym, sim, root, file, options):
        options.disable_gravity = False
        return function(gym, sim, root, file, options)

    return load


def without_filter(function):
    return lambda gym, env, asset, pose, name, group, filter: function(gym, env, asset, pose, name, group, 0)


def blown_up(function):
    def states(env, bodies):
        rows = function(env, bodies)
        if env is env.sim.envs[1]:
            rows[1] = np.nan
        return rows

    return states


BROKEN = [
    ("tensors have our shapes", then(Gym, "acquire_rigid_body_state_tensor", lambda tensor, *args: lost(tensor))),
    ("origins are known", then(Env, "states", shifted(0.1))),
    ("the file's masses are taken", then(Gym, "get_actor_rigid_body_properties", body(mass=0.5))),
    ("the file's inertias are taken", then(Gym, "get_actor_rigid_body_properties", body(com=gymapi.Vec3(0.1)))),
    ("the file's inertias are taken", then(Gym, "get_actor_rigid_body_properties", body(inertia=gymapi.Mat33()))),
    ("drives are taken", ignored("set_actor_dof_properties")),
    *(
        ("drives are taken", then(Gym, "get_actor_dof_properties", scaled(field, 1.1)))
        for field in ("stiffness", "damping", "effort", "armature", "lower", "upper")
    ),
    ("drives are taken", then(Gym, "get_actor_dof_properties", scaled("hasLimits", False))),
    ("a written state arrives", ignored("set_dof_state_tensor_indexed")),
    ("bodies are where we say", then(Gym, "get_asset_rigid_body_names", lambda names, *args: names[:1] + names[:0:-1])),
    ("tensors may be acquired late", changed(Gym, "_acquire", too_late)),
    ("a write is of its row alone", changed(Gym, "_put", spread)),
    ("free fall is g t", changed(Env, "step", half_time)),
    ("a resting box weighs m g", changed(Gym, "create_box", one_box)),
    ("a resting box weighs m g", changed(Gym, "create_box", of_water)),
    ("a box in the air feels nothing", changed(Env, "step", stale)),
    ("friction slows by mu", changed(gymapi, "combine", lambda function: max)),
    ("friction slows by mu", changed(gymapi, "combine", lambda function: min)),
    ("friction slows by mu", changed(gymapi, "combine", lambda function: lambda a, b: a * b)),
    ("friction slows by mu", ignored("set_actor_rigid_shape_properties")),
    ("drives reach their targets", ignored("set_dof_position_target_tensor")),
    ("the hand has no weight", changed(Gym, "load_asset", heavy)),
    ("the hand does not touch itself", changed(Gym, "create_actor", without_filter)),
    ("the hand touches the ground", changed(Env, "step", numb)),
    ("what blows up stays in its row", changed(Env, "states", blown_up)),
]


@pytest.mark.parametrize(("name", "broken"), BROKEN, ids=[f"{i}-{name}" for i, (name, _) in enumerate(BROKEN)])
def test_a_check_fails_when_what_it_is_about_is_broken(name, broken, monkeypatch):
    broken(monkeypatch)
    sim = checks.start(N, "cpu")
    try:
        good, measured = checks.CHECKS[name](sim)
    finally:
        sim.close()
    assert not good, measured


def test_every_check_has_been_broken():
    assert {name for name, _ in BROKEN} == set(checks.CHECKS)


def test_what_raises_has_failed(monkeypatch, capsys):
    def broken(sim):
        raise RuntimeError("no such tensor")

    monkeypatch.setattr(checks, "CHECKS", {"one": broken, "two": lambda sim: (True, "as it should be")})
    assert checks.run_checks(None) == 1
    assert capsys.readouterr().out == "FAIL  one: RuntimeError: no such tensor\nPASS  two: as it should be\n"


@pytest.mark.parametrize(("rate", "word"), [(0.5, "PASS"), (0.4, "FAIL")])
def test_the_grasp_fails_with_fewer_than_half(rate, word, monkeypatch, capsys):
    from examples import scripted_grasp

    monkeypatch.setattr(scripted_grasp, "scripted_env", lambda *args, **kwargs: None)
    monkeypatch.setattr(scripted_grasp, "success_rate", lambda env: rate)
    assert checks.grasp("cpu", True) == (word == "FAIL")
    assert capsys.readouterr().out.startswith(f"{word}  a scripted grasp holds: {round(16 * rate)} of 16")


@pytest.mark.parametrize(
    ("device", "statuses", "holds", "said"),
    [
        ("cuda:0", [0], True, ""),
        ("cuda:0", [1, 0], False, "      so train with --env.cuda-graphs False\n"),
        ("cuda:0", [1, 1], False, ""),
        ("cuda:0", [-11, 0], False, "SIGSEGV\n      so train with --env.cuda-graphs False\n"),
        ("cpu", [1], False, ""),
    ],
)
def test_a_grasp_that_fails_is_repeated_without_cuda_graphs(device, statuses, holds, said, monkeypatch, capsys):
    left = list(statuses)

    def run(command):
        assert command[:1] == [sys.executable] and ("--no-cuda-graphs" in command) == (len(left) < len(statuses))
        return subprocess.CompletedProcess(command, left.pop(0))

    monkeypatch.setattr(checks.subprocess, "run", run)
    assert checks.grasp_holds(device) == holds
    assert not left
    assert capsys.readouterr().out.endswith(said)
