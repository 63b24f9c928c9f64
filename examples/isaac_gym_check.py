"""Does Isaac Gym do on this machine what dexhand_gym relies on? Measures it and says so, a line each:

    python examples/isaac_gym_check.py [--num-envs 64] [--device auto|cpu|cuda:0] [--no-grasp]

Exit status 1 if anything fails. What to make of a failure is in docs/isaac-gym.md.
"""

# The type checker knows gymapi from the package isaacgym-stubs, which has no gymtorch.
# pyright: reportMissingModuleSource=false

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

try:  # before torch, so before everything here
    from isaacgym import gymapi, gymtorch  # pyright: ignore[reportAttributeAccessIssue]
except (ImportError, RuntimeError, OSError) as error:
    sys.exit("FAIL  Isaac Gym can be imported: {}; see docs/isaac-gym.md".format(str(error).partition("\n")[0]))
import numpy as np
import torch

from dexhand_gym.hands.dexhand021 import DEXHAND021_RIGHT as HAND
from dexhand_gym.hands.mjcf import numbers
from dexhand_gym.sim import Box, Scene, SimConfig, make_sim

ROOT = Path(__file__).resolve().parent.parent
GRAVITY, DECIMATION, HANDS = 9.81, 1, len(HAND.body_names)
STEP = SimConfig().dt * DECIMATION  # s
Result = Tuple[bool, str]


def start(num_envs: int, device: str) -> Any:
    """A hand and a box in every environment. From the first to the last, boxes grow, get lighter and get rougher."""
    share = np.linspace(0.0, 1.0, num_envs)
    boxes = {"box.size": 0.03 + 0.05 * share, "box.mass": 0.2 - 0.15 * share, "box.friction": 0.5 + 0.5 * share}
    sim: Any = make_sim(Scene(objects=(Box(),)), num_envs, SimConfig(), DECIMATION, "isaacgym", device, boxes)
    sim.engines_bodies = gymtorch.wrap_tensor(sim.gym.acquire_rigid_body_state_tensor(sim.sim))
    return sim


def of_boxes(sim: Any, name: str) -> torch.Tensor:
    """Their size, mass or friction [N]."""
    return sim._own[f"box_{name}"][:, 0].float()


def every_row(sim: Any) -> torch.Tensor:
    return torch.ones(sim.num_envs, dtype=torch.bool, device=sim.device)


def put_box(sim: Any, above: float = 0.005) -> None:
    """At rest, not turned, so far above the ground, m, in every environment. The hand goes to its zero pose, up 0.5 m."""
    sim.dof_state.zero_()
    sim.dof_state[:, 2, 0] = 0.5
    sim.root_state[:, 1] = 0.0
    sim.root_state[:, 1, 2], sim.root_state[:, 1, 6] = above + of_boxes(sim, "size") / 2, 1.0
    sim.write_state(every_row(sim))


def push_box(sim: Any, axis: int, speed: float) -> None:
    """What rests in every environment gets that speed, m/s."""
    put_box(sim)
    hold(sim, 50)
    sim.root_state[:, 1, 7:] = 0.0
    sim.root_state[:, 1, 7 + axis] = speed
    sim.write_state(every_row(sim))


def hold(sim: Any, steps: int) -> None:
    targets = sim.dof_state[..., 0].clone()
    for _ in range(steps):
        sim.step(targets)


# --- What is checked -------------------------------------------------------------------------------------------------


def names_and_order(sim: Any) -> Result:
    """Of bodies the tensor is the engine's own: with other bodies than the file's it has another shape."""
    in_order = all(order.tolist() == sorted(order.tolist()) for order in (sim._dof_order, sim._body_order))
    wanted, found = (sim.num_envs * (HANDS + 1), 13), tuple(sim.engines_bodies.shape)
    return found == wanted, f"{found}, {'in the order of the file' if in_order else 'in another order, which will do'}"


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
    wanted = {link.name: float(link.inertial["mass"]) for link in HAND.links if link.inertial}
    worst = max(abs(bodies[name].mass / mass - 1) for name, mass in wanted.items())
    return worst < 1e-3, f"the hand's differ from the file's by {worst:.1e} at most"


def inertias(sim: Any) -> Result:
    """Centres of mass and principal moments. Which axes the engine gives inertias in is not documented."""
    names = sim.gym.get_actor_rigid_body_names(sim.envs[0], 0)
    bodies = dict(zip(names, sim.gym.get_actor_rigid_body_properties(sim.envs[0], 0)))
    links = [link for link in HAND.links if link.inertial]
    centres, moments = [], []
    for link in links:
        com, rows = bodies[link.name].com, bodies[link.name].inertia
        centres.append((com.x, com.y, com.z))
        moments.append(np.linalg.eigvalsh([[row.x, row.y, row.z] for row in (rows.x, rows.y, rows.z)]))
    off = np.abs(np.subtract(centres, [numbers(link.inertial["pos"]) for link in links])).max()
    wanted = np.sort([numbers(link.inertial["diaginertia"]) for link in links])
    differ = np.abs(moments / wanted - 1).max()
    return bool(off < 1e-5 and differ < 1e-2), f"centres are off by {off:.1e} m, moments differ by {differ:.1e} at most"


def drives(sim: Any) -> Result:
    names = sim.gym.get_actor_dof_names(sim.envs[0], 0)
    found = sim.gym.get_actor_dof_properties(sim.envs[0], 0)[[names.index(name) for name in HAND.dof_names]]
    own = [np.array([float(HAND.joints[name][key]) for name in HAND.dof_names]) for key in ("damping", "armature")]
    wanted = {
        "driveMode": np.full(len(found), int(gymapi.DOF_MODE_POS)),
        "stiffness": [HAND.drives[name]["stiffness"] for name in HAND.dof_names],
        "damping": [HAND.drives[name]["damping"] for name in HAND.dof_names] + own[0],
        "effort": [HAND.drives[name]["effort"] for name in HAND.dof_names],
        "armature": own[1],
        "hasLimits": np.ones(len(found)),
        "lower": HAND.dof_lower,
        "upper": HAND.dof_upper,
    }
    wrong = [name for name, values in wanted.items() if not np.allclose(found[name], values, rtol=1e-3, atol=1e-7)]
    return not wrong, f"{', '.join(wrong)} is not as set" if wrong else f"{', '.join(wanted)} are as set"


def round_trip(sim: Any) -> Result:
    """A state that is written comes out of the engine again after one step in which nothing pulls at it."""
    put_box(sim, 1.0)
    pose = torch.rand_like(sim.dof_state[..., 0]) * 0.2 + 0.02
    pose[:, HAND.dof_names.index("r_f_joint3_1")] = 0.0
    sim.dof_state[..., 0], sim.dof_state[..., 1] = pose, 0.0
    sim.write_state(every_row(sim))
    sim.step(pose)
    worst = (sim.dof_state[..., 0] - pose).abs().max().item()
    return worst < 2e-3, f"dofs are off by {worst:.1e} after one step"


def kinematics(sim: Any) -> Result:
    """Our bodies against the engine's own, which are fresh after a step."""
    put_box(sim, 1.0)
    sim.dof_state[..., 0] += 0.1
    sim.dof_state[:, HAND.dof_names.index("r_f_joint3_1"), 0] = 0.0
    sim.write_state(every_row(sim))
    hold(sim, 1)
    sim.gym.refresh_rigid_body_state_tensor(sim.sim)
    theirs = sim.engines_bodies.view(sim.num_envs, -1, 13).index_select(1, sim._body_order)
    off = (theirs[..., :3] - sim._origins - sim.rigid_body_state[..., :3]).abs().max().item()
    turned = 1 - (theirs[..., 3:7] * sim.rigid_body_state[..., 3:7]).sum(-1).abs().min().item()
    return off < 1e-3 and turned < 1e-4, f"off by {off:.1e} m, turned by {turned:.1e} (1 - |cos|)"


def late_tensors(sim: Any) -> Result:
    """Those of above were acquired before the first step."""
    put_box(sim)
    hold(sim, 2)
    sim.gym.refresh_rigid_body_state_tensor(sim.sim)
    early = {"actor_root_state": sim._roots, "dof_state": sim._dofs, "net_contact_force": sim._forces}
    early["rigid_body_state"] = sim.engines_bodies
    other: List[str] = []
    for name, tensor in early.items():
        late = gymtorch.wrap_tensor(getattr(sim.gym, f"acquire_{name}_tensor")(sim.sim))
        if not torch.equal(late.flatten(), tensor.flatten()):
            other.append(name)
    return not other, f"{', '.join(other) or 'none'} of {len(early)} is another when it is acquired after steps"


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
    """Each weighs its own mass and stands as high as it is large."""
    put_box(sim)
    hold(sim, 100)
    weight = (sim.net_contact_force[:, -1, 2] / (of_boxes(sim, "mass") * GRAVITY) - 1).abs().max().item()
    height = (sim.root_state[:, 1, 2] - of_boxes(sim, "size") / 2).abs().max().item()
    return weight < 0.05 and height < 0.002, f"forces differ by {weight:.1e} of m g, heights by {height:.4f} m at most"


def thrown_box(sim: Any) -> Result:
    push_box(sim, 2, 2.0)
    hold(sim, 5)
    force, height = sim.net_contact_force[:, -1].abs().max().item(), sim.root_state[:, 1, 2].min().item()
    return force == 0 and height > 0.1, f"{force:.1e} N at {height:.2f} m"


def friction(sim: Any) -> Result:
    """From 0.5 to 1, each box against its own: whatever slides is slowed by mu times what presses, and that is the weight
    and what the box jumps with, for it may tilt."""
    push_box(sim, 0, 1.0)
    hold(sim, 3)
    velocity = sim.root_state[:, 1, 7:10]
    found = (1.0 - velocity[:, 0]) / (GRAVITY * 3 * STEP + velocity[:, 2])
    off = (found - of_boxes(sim, "friction")).abs().max().item()
    return off < 0.05, f"mu is {found[0].item():.2f} to {found[-1].item():.2f}, off by {off:.2f} at most"


def reached_targets(sim: Any) -> Result:
    put_box(sim)
    targets = sim.dof_state[..., 0] + 0.1
    targets[:, HAND.dof_names.index("r_f_joint3_1")] = 0.0
    for _ in range(100):
        sim.step(targets)
    worst = (sim.dof_state[..., 0] - targets).abs().max().item()
    return worst < 5e-3, f"drives end {worst:.1e} rad or m beside their targets"


def weightless_hand(sim: Any) -> Result:
    """Nothing pulls at the hand, so its soft base does not sag."""
    put_box(sim)
    hold(sim, 50)
    sag = 0.5 - sim.dof_state[:, 2, 0].min().item()
    return abs(sag) < 1e-4, f"the base sags by {sag:.1e} m"


def no_self_collision(sim: Any) -> Result:
    put_box(sim)
    fist = sim.dof_state[..., 0].clone()
    fist[:, 6:] = torch.tensor(HAND.dof_upper[6:], device=sim.device)
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
    put_box(sim)
    sim.dof_state[0, 7, 1] = float("nan")
    sim.write_state(torch.arange(sim.num_envs, device=sim.device) == 0)
    hold(sim, 1)
    flagged = sim.nonfinite.sum().item() == 1 and bool(sim.nonfinite[0])
    put_box(sim)
    hold(sim, 1)
    return flagged and not sim.nonfinite.any(), "flagged in its row, and revived"


CHECKS: Dict[str, Callable[[Any], Result]] = {
    "tensors have our shapes": names_and_order,
    "origins are known": origins,
    "the file's masses are taken": masses,
    "the file's inertias are taken": inertias,
    "drives are taken": drives,
    "a written state arrives": round_trip,
    "bodies are where we say": kinematics,
    "tensors may be acquired late": late_tensors,
    "a write is of its row alone": neighbours,
    "free fall is g t": free_fall,
    "a resting box weighs m g": resting_box,
    "a box in the air feels nothing": thrown_box,
    "friction slows by mu": friction,
    "drives reach their targets": reached_targets,
    "the hand has no weight": weightless_hand,
    "the hand does not touch itself": no_self_collision,
    "the hand touches the ground": touch,
    "what blows up stays in its row": blown_up,
}


def speed(sim: Any) -> str:
    put_box(sim)
    hold(sim, 5)
    begin = time.perf_counter()
    hold(sim, 50)
    if sim.device.type == "cuda":
        torch.cuda.synchronize()
    rate = 50 * sim.num_envs / (time.perf_counter() - begin)
    return f"{rate:.0f} environment steps a second, {sim.num_envs} hands over their boxes"


def run_checks(sim: Any) -> int:
    """How many fail."""
    failures = 0
    for name, check in CHECKS.items():
        try:
            good, measured = check(sim)
        except Exception as error:  # the other checks are still worth something
            good, measured = False, f"{type(error).__name__}: {error}"
        failures += not good
        print(f"{'PASS' if good else 'FAIL'}  {name}: {measured}", flush=True)
    return failures


# --- The grasp -------------------------------------------------------------------------------------------------------


def grasp(device: str, cuda_graphs: bool) -> int:
    """The scripted grasp of examples/scripted_grasp.py, 16 times. Exit status."""
    sys.path.insert(0, str(ROOT))
    from examples.scripted_grasp import scripted_env, success_rate

    env = scripted_env(16, seed=0, backend="isaacgym", device=device, cuda_graphs=cuda_graphs)
    succeeded = round(16 * success_rate(env))
    name = "a scripted grasp holds" if cuda_graphs else "a scripted grasp holds without CUDA graphs"
    print(f"{'PASS' if succeeded >= 8 else 'FAIL'}  {name}: {succeeded} of 16 boxes lifted and held")
    return int(succeeded < 8)


def grasp_holds(device: str) -> bool:
    """In a process of its own: an engine each. On a GPU a failure is repeated without CUDA graphs, to tell which of the
    two it is that fails."""
    command = [sys.executable, __file__, "--only-grasp", "--device", device]
    for more in ([], ["--no-cuda-graphs"]):
        status = subprocess.run(command + more).returncode
        if status < 0:
            print(f"FAIL  a scripted grasp holds: crashes with {signal.Signals(-status).name}", flush=True)
        if status == 0 or device == "cpu":
            break
    if status == 0 and more:
        print("      so train with --env.cuda-graphs False", flush=True)
    return status == 0 and not more


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-grasp", action="store_true", help="leave the scripted grasp out")
    parser.add_argument("--only-grasp", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--no-cuda-graphs", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_grasp:
        return grasp(args.device, not args.no_cuda_graphs)
    torch.manual_seed(0)
    try:
        sim = start(args.num_envs, args.device)
    except (RuntimeError, ValueError) as error:
        print(f"FAIL  Isaac Gym starts: {error}")
        return 1
    print(f"Isaac Gym on {sim.device}, {sim.num_envs} environments, torch {torch.__version__}")
    failures = run_checks(sim)
    print(f"      {speed(sim)}", flush=True)
    if not args.no_grasp:
        failures += not grasp_holds(str(sim.device))
    print("all is well" if not failures else f"{failures} failed: see docs/isaac-gym.md")
    return int(failures > 0)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # Isaac Gym may crash when the interpreter shuts down: no failure of a check
