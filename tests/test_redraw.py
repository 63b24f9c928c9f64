"""What is drawn anew for an episode takes few operations, and torch.compile fuses it whole."""

import logging

import pytest
import torch
from torch._inductor import metrics
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dexhand_gym.envs import actions
from dexhand_gym.envs.box_grasping import BoxGrasping
from dexhand_gym.envs.captured import Fused
from dexhand_gym.envs.config import Config, override
from dexhand_gym.envs.cube_reorientation import CubeReorientation
from dexhand_gym.envs.randomize_config import EVERYTHING

N = 6


class Own(BoxGrasping):
    """Its variation has a property that is drawn too, and a field of the model."""

    def vary(self):
        return {"box.mass": self.uniform(0.1, 0.2, 1)[:, 0], "dof_damping": self.uniform(0.1, 0.2, self.sim.model.nv)}


def make(task=BoxGrasping, backend="mujoco", **randomize):
    fields = {f"task.randomize.{name}": value for name, value in randomize.items()}
    return task(override(Config(task=task.config()), {"num_envs": N, "backend": backend, "device": "cpu", **fields}), 0)


@torch.inference_mode()
def assert_fuses(env, function, arguments, backend):
    """It compiles without a break in its graph, and does as before to the environment's memory."""
    before = {name: value.clone() for name, value in env.memory().items()}
    result = function(*arguments)
    plain = {name: value.clone() for name, value in env.memory().items()}
    for name, value in env.memory().items():
        value.copy_(before[name])
    fused = torch.compile(function, dynamic=False, fullgraph=True, backend=backend)(*arguments)
    torch.testing.assert_close(fused, result)
    torch.testing.assert_close(dict(env.memory()), plain)
    return [name for name, value in plain.items() if not torch.equal(value, before[name])]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("engine", ["mujoco", pytest.param("mjwarp", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("task", "more"), [(BoxGrasping, {}), (Own, {}), (BoxGrasping, {"curriculum": 0.7})])
def test_what_becomes_of_random_numbers_fuses(task, more, engine, backend):
    torch._dynamo.reset()
    metrics.reset()
    env = make(task, engine, **EVERYTHING, **more)
    with torch.inference_mode():
        own = env.vary()
    mask = torch.arange(N) % 3 == 0
    numbers = torch.rand(env._redraw.shape, dtype=torch.float64)
    if env.width is not None:
        env.width.fill_(0.5)
    changed = assert_fuses(env, env._redraw.apply, (numbers, own, mask), backend)
    assert len(changed) > 25 and {"joint_offset", "touch_gain", "box_size", "sim.geom_friction"} <= {*changed}
    if backend == "inductor":
        assert metrics.generated_kernel_count < 70
    targets = torch.rand_like(env.stages.dof_targets)
    assert assert_fuses(env, env.stages.commands.carry, (targets, torch.rand(N, 1)), backend)
    pushes = torch.rand(3, N, 1, 1) / 100, torch.randn(N, 1, 2, 3), env.width
    assert_fuses(env, env._pushes.wrench, pushes, backend)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("engine", ["mujoco", pytest.param("mjwarp", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("task", "more"), [(BoxGrasping, {}), (BoxGrasping, EVERYTHING), (CubeReorientation, {})])
def test_what_becomes_of_actions_and_starts_fuses(task, more, engine, backend, monkeypatch):
    on_a_gpu = lambda *values: torch.isfinite(sum(x.flatten(1).sum(1) if x.dim() > 1 else x for x in values))  # noqa: E731
    monkeypatch.setattr(actions, "finite", on_a_gpu)  # a CPU does it in NumPy
    torch._dynamo.reset()
    metrics.reset()
    env = make(task, engine, **more)
    mask = torch.arange(N) % 3 == 0
    with torch.inference_mode():
        start = env.sample_start()
        env.stages.newest.uniform_(-1, 1)
    given = torch.zeros(N)
    given[1] = torch.nan  # this one keeps its targets
    before, baseline = env.stages.dof_targets[1].clone(), env.stages.targets + 0.001
    changed = assert_fuses(env, env.stages.follow, (given, baseline), backend)
    assert {"targets", "rule_targets"} <= {*changed}
    assert env.stages.refused.tolist() == [row == 1 for row in range(N)]
    assert torch.equal(env.stages.dof_targets[1], before)
    changed = assert_fuses(env, env._write_starts, (start, mask), backend)
    assert {"start_hand", "targets", "dof_targets", "sim.dof_state", "sim.root_state"} <= {*changed}
    if backend == "inductor":
        assert metrics.generated_kernel_count < 25  # of 46 operations


def test_a_stage_that_is_replaced_is_compiled_anew():
    env = make()
    follow = Fused(env.stages.follow)
    follow._function = torch.compile(env.stages.follow, dynamic=False, backend="aot_eager")
    given, baseline = torch.zeros(N), env.stages.targets.clone()
    first = follow(given, baseline)
    env.coupling = lambda targets: torch.full_like(env.stages.dof_targets, 0.25)
    assert torch.equal(follow(given, baseline), torch.full_like(first, 0.25))
    env.coupling = lambda targets: targets[:, :3]
    with pytest.raises(ValueError, match="coupling"):
        follow(given, baseline)
    env.post_action_filters = []
    env.coupling = lambda targets: torch.full_like(env.stages.dof_targets, targets.max().item())  # waits for a GPU
    assert follow(given, baseline).unique().numel() == 1
    assert follow._function is not follow._plain, "it was compiled each time"


class Launches(TorchDispatchMode):
    """Counts operations that write or make a tensor, each a kernel on a GPU; views are none."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        given, made = (
            {x.untyped_storage().data_ptr() for x in tree_leaves(tree) if isinstance(x, torch.Tensor)}
            for tree in ((arguments, keywords), result)
        )
        self.count += function._schema.is_mutable or not made <= given
        return result


@torch.inference_mode()
def launches(function):
    with Launches() as counted:
        function()
    return counted.count


def test_it_takes_few_operations():
    env, off = make(**EVERYTHING), make()
    assert launches(off._place_starts) < 60 and launches(env._place_starts) < 240
    assert launches(off._drive_dofs) < 20 and launches(env._drive_dofs) < 45


def test_without_a_compiler_a_function_stays_as_it_is(monkeypatch, caplog):
    def no_compiler(*arguments):
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: no_compiler)
    fused = Fused(abs)
    with caplog.at_level(logging.WARNING):
        assert fused(-1) == fused(-1) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "not compiled, which costs a few per cent of speed: no compiler"
    ]
