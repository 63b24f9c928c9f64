"""Does Isaac Gym do on this machine what dexhand_gym relies on? Measures it and says so, a line each:

    python examples/isaac_gym_check.py [--num-envs 64] [--device auto|cpu|cuda:0] [--no-grasp]

Exit status 1 if anything fails. What to make of a failure is in docs/isaac-gym.md.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
import subprocess
import sys
import time
from typing import Any, Callable, Dict, Tuple

import isaacgym  # noqa: F401  # pyright: ignore[reportMissingImports]  # before torch, so before everything here
import torch
from isaacgym import gymapi, gymtorch  # pyright: ignore[reportMissingImports]

from dexhand_gym import hand
from dexhand_gym.sim import Box, Scene, SimConfig, make_sim
from dexhand_gym.sim.asset import read_links

GRAVITY, DECIMATION, HANDS = 9.81, 2, len(hand.BODY_NAMES)
STEP = SimConfig().dt * DECIMATION  # s
Result = Tuple[bool, str]


def every_row(sim: Any) -> torch.Tensor:
    return torch.ones(sim.num_envs, dtype=torch.bool, device=sim.device)


def put_box(sim: Any, height: float, sideways: float = 0.0, **at: float) -> None:
    """In every environment, not turned; `sideways` is its speed along x, m/s. The hand goes to its zero pose, up 0.5 m."""
    sim.dof_state.zero_()
    sim.dof_state[:, 2, 0] = 0.5
    sim.root_state[:, 1] = 0.0
    sim.root_state[:, 1, 2], sim.root_state[:, 1, 6], sim.root_state[:, 1, 7] = height, 1.0, sideways
    sim.write_state(every_row(sim))


def hold(sim: Any, steps: int) -> None:
    targets = sim.dof_state[..., 0].clone()
    for _ in range(steps):
        sim.step(targets)


# --- What is checked -------------------------------------------------------------------------------------------------


def names_and_order(sim: Any) -> Result:
    in_order = all(order.tolist() == sorted(order.tolist()) for order in (sim._dof_order, sim._body_order))
    shapes = [tuple(x.shape[1:]) for x in (sim.root_state, sim.dof_state, sim.rigid_body_state)]
    good = shapes == [(2, 13), (26, 2), (40, 13)]
    return good, f"{shapes}, {'in the order of the file' if in_order else 'in another order, which will do'}"


def origins(sim: Any) -> Result:
    """Where the hand's root is said to be, against the grid that the environments stand in."""
    grid = [sim.gym.get_env_origin(env) for env in sim.envs]
    corners = torch.tensor([[at.x, at.y, at.z] for at in grid], device=sim.device).unsqueeze(1)
    own = sim._origins.abs().max().item() < 1e-3
    off = 0.0 if own else (sim._origins - corners).abs().max().item()
    return off < 1e-3, f"positions count from {'each environment' if own else 'the world'}, off by {off:.1e} m"


def masses(sim: Any) -> Result:
    """Of the bodies that the file gives one."""
    names = sim.gym.get_actor_rigid_body_names(sim.envs[0], 0)
    bodies = dict(zip(names, sim.gym.get_actor_rigid_body_properties(sim.envs[0], 0)))
    wanted = {link.name: float(link.inertial["mass"]) for link in read_links() if link.inertial}
    worst = max(abs(bodies[name].mass / mass - 1) for name, mass in wanted.items())
    return worst < 1e-3, f"the hand's differ from the file's by {worst:.1e} at most"


def drives(sim: Any) -> Result:
    names = sim.gym.get_actor_dof_names(sim.envs[0], 0)
    found = sim.gym.get_actor_dof_properties(sim.envs[0], 0)
    rows = [found[names.index(name)] for name in hand.DOF_NAMES]
    good = all(
        row["driveMode"] == int(gymapi.DOF_MODE_POS)
        and abs(row["stiffness"] / stiffness - 1) < 1e-3
        and abs(row["effort"] / effort - 1) < 1e-3
        and row["armature"] > 0
        for row, stiffness, effort in zip(rows, hand.STIFFNESS, hand.EFFORT)
    )
    return good, "mode, stiffness, effort and armature are as set"


def round_trip(sim: Any) -> Result:
    """A state that is written comes out of the engine again after one step in which nothing pulls at it."""
    put_box(sim, 1.0)
    pose = torch.rand_like(sim.dof_state[..., 0]) * 0.2 + 0.02
    pose[:, hand.DOF_NAMES.index("r_f_joint3_1")] = 0.0
    sim.dof_state[..., 0], sim.dof_state[..., 1] = pose, 0.0
    sim.write_state(every_row(sim))
    sim.step(pose)
    worst = (sim.dof_state[..., 0] - pose).abs().max().item()
    return worst < 2e-3, f"dofs are off by {worst:.1e} after one step"


def kinematics(sim: Any) -> Result:
    """Our bodies against the engine's own, which are fresh after a step."""
    put_box(sim, 1.0)
    sim.dof_state[..., 0] += 0.1
    sim.dof_state[:, hand.DOF_NAMES.index("r_f_joint3_1"), 0] = 0.0
    sim.write_state(every_row(sim))
    hold(sim, 1)
    theirs = gymtorch.wrap_tensor(sim.gym.acquire_rigid_body_state_tensor(sim.sim)).view(sim.num_envs, -1, 13)
    sim.gym.refresh_rigid_body_state_tensor(sim.sim)
    theirs = theirs.index_select(1, sim._body_order)
    off = (theirs[..., :3] - sim._origins - sim.rigid_body_state[..., :3]).abs().max().item()
    turned = 1 - (theirs[..., 3:7] * sim.rigid_body_state[..., 3:7]).sum(-1).abs().min().item()
    return off < 1e-3 and turned < 1e-4, f"off by {off:.1e} m, turned by {turned:.1e} (1 - |cos|)"


def neighbours(sim: Any) -> Result:
    """A write to row 0 leaves the others on their way."""
    ends = []
    for disturb in (False, True):
        put_box(sim, 1.0)
        hold(sim, 2)
        if disturb:
            sim.root_state[0, 1, 2] = 2.0
            sim.write_state(torch.arange(sim.num_envs, device=sim.device) == 0)
        hold(sim, 2)
        ends.append(sim.root_state[:, 1].clone())
    worst = (ends[0] - ends[1])[1:].abs().max().item() if sim.num_envs > 1 else 0.0
    moved = (ends[1] - ends[0])[0, 2].item()
    return worst < 1e-5 and moved > 0.5, f"row 0 moved by {moved:.2f} m, the others by {worst:.1e}"


def free_fall(sim: Any) -> Result:
    put_box(sim, 3.0)
    hold(sim, 10)
    speed = sim.root_state[:, 1, 9]
    worst = (speed / (-GRAVITY * 10 * STEP) - 1).abs().max().item()
    return worst < 1e-3, f"speed is off by {worst:.1e} of g t"


def resting_box(sim: Any) -> Result:
    put_box(sim, 0.03)
    hold(sim, 100)
    force, height = sim.net_contact_force[:, -1, 2], sim.root_state[:, 1, 2]
    good = ((force / (0.1 * GRAVITY) - 1).abs() < 0.05).all() and ((height - 0.025).abs() < 0.002).all()
    return bool(good), f"{force.mean().item():.3f} N for {0.1 * GRAVITY:.3f}, centre at {height.mean().item():.4f} m"


def friction(sim: Any) -> Result:
    """What slides at 1 m/s pulls back with about what presses (a cube tilts while it does, so: roughly)."""
    put_box(sim, 0.025, sideways=1.0)
    hold(sim, 5)
    slowed = (1.0 - sim.root_state[:, 1, 7]).mean().item() / (GRAVITY * 5 * STEP)
    return 0.4 < slowed < 1.3, f"a sliding box is slowed by {slowed:.2f} of mu g t"


def reached_targets(sim: Any) -> Result:
    put_box(sim, 0.03)
    targets = sim.dof_state[..., 0] + 0.1
    targets[:, hand.DOF_NAMES.index("r_f_joint3_1")] = 0.0
    for _ in range(100):
        sim.step(targets)
    worst = (sim.dof_state[..., 0] - targets).abs().max().item()
    return worst < 5e-3, f"drives end {worst:.1e} rad or m beside their targets"


def weightless_hand(sim: Any) -> Result:
    """Nothing pulls at the hand, so its soft base does not sag."""
    put_box(sim, 0.03)
    hold(sim, 50)
    sag = 0.5 - sim.dof_state[:, 2, 0].min().item()
    return abs(sag) < 1e-4, f"the base sags by {sag:.1e} m"


def no_self_collision(sim: Any) -> Result:
    put_box(sim, 0.03)
    fist = sim.dof_state[..., 0].clone()
    fist[:, 6:] = torch.tensor(hand.DOF_UPPER[6:], device=sim.device)
    for _ in range(100):
        sim.step(fist)
    force = sim.net_contact_force[:, :HANDS].abs().max().item()
    return force < 1e-6, f"a fist feels {force:.1e} N"


def touch(sim: Any) -> Result:
    """The hand pressed on the ground."""
    put_box(sim, 1.0)
    targets = sim.dof_state[..., 0].clone()
    targets[:, 2] = -0.3
    for _ in range(100):
        sim.step(targets)
    force = sim.net_contact_force[:, :HANDS, 2].sum(1).min().item()
    return force > 1.0, f"the ground pushes back with {force:.1f} N"


def blown_up(sim: Any) -> Result:
    """A state that is not finite is kept from the engine, and the next good one is taken."""
    put_box(sim, 0.03)
    sim.dof_state[0, 7, 1] = float("nan")
    sim.write_state(torch.arange(sim.num_envs, device=sim.device) == 0)
    hold(sim, 1)
    flagged = sim.nonfinite.sum().item() == 1 and bool(sim.nonfinite[0])
    put_box(sim, 0.03)
    hold(sim, 1)
    return flagged and not sim.nonfinite.any(), "flagged in its row, and revived"


def speed(sim: Any) -> Result:
    put_box(sim, 0.03)
    hold(sim, 5)
    begin = time.perf_counter()
    hold(sim, 50)
    if sim.device.type == "cuda":
        torch.cuda.synchronize()
    rate = 50 * sim.num_envs / (time.perf_counter() - begin)
    return True, f"{rate:.0f} environment steps a second, {sim.num_envs} hands over their boxes"


CHECKS: Dict[str, Callable[[Any], Result]] = {
    "tensors have our shapes": names_and_order,
    "origins are known": origins,
    "the file's masses are taken": masses,
    "drives are taken": drives,
    "a written state arrives": round_trip,
    "bodies are where we say": kinematics,
    "a write is of its row alone": neighbours,
    "free fall is g t": free_fall,
    "a resting box weighs m g": resting_box,
    "friction slows": friction,
    "drives reach their targets": reached_targets,
    "the hand has no weight": weightless_hand,
    "the hand does not touch itself": no_self_collision,
    "the hand touches the ground": touch,
    "what blows up stays in its row": blown_up,
    "speed": speed,
}


def grasp(device: str) -> int:
    """The scripted grasp of examples/scripted_grasp.py, 16 times. In a process of its own: an engine each."""
    sys.path.insert(0, ".")
    from examples.scripted_grasp import scripted_env, success_rate

    env = scripted_env(16, seed=0, backend="isaacgym", device=device)
    succeeded = round(16 * success_rate(env))
    print(f"{'PASS' if succeeded >= 8 else 'FAIL'}  a scripted grasp holds: {succeeded} of 16 boxes lifted and held")
    return succeeded < 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-grasp", action="store_true", help="leave the scripted grasp out")
    parser.add_argument("--only-grasp", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_grasp:
        return grasp(args.device)
    torch.manual_seed(0)
    sim: Any = make_sim(Scene(boxes=(Box(),)), args.num_envs, SimConfig(), DECIMATION, "isaacgym", args.device)
    print(f"Isaac Gym on {sim.device}, {sim.num_envs} environments, torch {torch.__version__}")
    failures = 0
    for name, check in CHECKS.items():
        try:
            good, measured = check(sim)
        except Exception as error:  # the other checks are still worth something
            good, measured = False, f"{type(error).__name__}: {error}"
        failures += not good
        print(f"{'PASS' if good else 'FAIL'}  {name}: {measured}", flush=True)
    if not args.no_grasp:
        command = [sys.executable, __file__, "--only-grasp", "--device", args.device]
        failures += subprocess.run(command).returncode != 0
    print("all is well" if not failures else f"{failures} failed: see docs/isaac-gym.md")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
