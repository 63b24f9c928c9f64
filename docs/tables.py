"""Tables that come from the code: writes them into the pages, between `<!-- table: NAME -->` and `<!-- end -->`.

python docs/tables.py            # writes
python docs/tables.py --check    # exit status 1 if a page is not as the code is
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Sequence, Set, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gymnasium  # noqa: E402
from gymnasium.envs.registration import registry  # noqa: E402

import configs  # noqa: E402
from dexhand_gym import tasks  # noqa: E402
from dexhand_gym.envs import task_class  # noqa: E402
from dexhand_gym.envs.mirror import HAND_MIRRORS  # noqa: E402
from dexhand_gym.export import KNOWN  # noqa: E402
from dexhand_gym.fields import check_name  # noqa: E402
from dexhand_gym.hands import find_hand  # noqa: E402
from dexhand_gym.hands.pair import parts_of  # noqa: E402
from dexhand_gym.sim import PHYSICS  # noqa: E402
from ppo.ppo import PPOConfig  # noqa: E402

HAND = find_hand("right")
UNITS = {"slide": "m", "turn": "rad", "finger": "rad"}


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> List[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def joints_of(name: str) -> str:
    """What an action moves: `joint`, with its factor where that is not 1."""
    moved = HAND.all_actions[name]
    return ", ".join(f"`{joint}`" + ("" if factor == 1 else f" x {factor:g}") for joint, factor in moved.items())


def actions() -> List[str]:
    bounds = zip(HAND.action_names, HAND.action_kinds, HAND.action_lower, HAND.action_upper)
    rows = [(i, f"`{n}`", joints_of(n), f"{low:g} to {high:g}", UNITS[k]) for i, (n, k, low, high) in enumerate(bounds)]
    return markdown(("action", "name", "moves", "limits", "unit"), rows)


def dofs() -> List[str]:
    rows = []
    for i, (name, low, high) in enumerate(zip(HAND.dof_names, HAND.dof_lower, HAND.dof_upper)):
        by = [action for action, row in zip(HAND.action_names, zip(*HAND.coupling)) if row[i]]
        rows.append(
            (i, f"`{name}`", f"{low:g} to {high:g}", ", ".join(f"`{action}`" for action in by) or "none: fixed")
        )
    return markdown(("dof", "name", "limits", "moved by"), rows)


def speeds() -> List[str]:
    rows = []
    for name in tasks():
        task = configs.default_config(name).task
        rows.append((name, task.max_linear_velocity, task.max_angular_velocity, task.max_finger_velocity))
    return markdown(("task", "base, m/s", "base, rad/s", "fingers, rad/s"), rows)


TOGETHER = {
    "BoxGrasping, BlindGrasping, ObjectGrasping, BimanualLift": "grasping and lifting",
    "BoxGrasping, BlindGrasping, ObjectGrasping": "grasping",
    "CubeRotation, CubeReorientation": "in the hand",
}
"""Tasks -> what they are called where all of them say the same."""


def together(names: Sequence[str]) -> str:
    """Tasks, or what they are called where all of them are there."""
    text = ", ".join(names)
    for of_some, word in TOGETHER.items():
        text = text.replace(of_some, word)
    return text


def observations() -> List[str]:
    """Of all tasks: width, unit, frame, whether the hand reports it, and who sees it."""
    seen: Dict[str, Tuple[List[str], List[str]]] = {}
    widths: Dict[str, Set[int]] = {}
    for name in tasks():
        env: Any = gymnasium.make_vec(f"DexHand/{name}-v0", num_envs=1, device="cpu").unwrapped
        task, found = env.task, env.observations()
        for key in dict.fromkeys((*task.policy_observation_keys, *task.critic_observation_keys, *KNOWN)):
            if key not in found or (parts_of(env.hand) and key in HAND_MIRRORS):  # of both hands together
                continue
            short, policy = key.split(".")[-1], key in task.policy_observation_keys
            widths.setdefault(short, set()).add(found[key].shape[1])
            policies, critics = seen.setdefault(short, ([], []))
            who = policies if policy else critics
            if name not in who and (policy or key in task.critic_observation_keys):
                who.append(name)
        env.close()
    rows = []
    for key, who in sorted(seen.items()):
        unit, frame, real = KNOWN[key]
        many = " or ".join(map(str, sorted(widths[key])))
        rows.append((f"`{key}`", many, unit, frame, "yes" if real else "", *map(together, who)))
    head = (
        "name",
        "numbers",
        "unit",
        "frame",
        "the hand reports it",
        "policies that see it by default",
        "critics alone",
    )
    return markdown(head, rows)


READABLE = {
    "dof_pos": "positions of all joints, in the order of [hand.md](hand.md#dofs); rad, of the base's first three m",
    "dof_vel": "their velocities",
    "dof_targets": "where their drives pull",
    "targets": "targets of the actions, base and fingers",
    "rule_targets": "what the pre-action rule proposed",
    "last_actions": "the newest action, -1 to 1",
    "prev_actions": "its older name",
    "bodies": "all bodies: position m, orientation x y z w, velocity m/s, angular velocity rad/s; world",
    "body_forces": "contact force on each, N, world",
    "episode_step": "control steps since the episode began",
    "episode_time": "the same in s",
    "start_hand": "targets of the actions when the episode began",
    "box": "an object of the scene, here `box`: position, orientation, velocities as of bodies",
    "start_box": "its pose when the episode began",
    "box_size": "its largest extent, m",
    "hand_pose": "the palm: position, orientation; world",
    "hand_pose_arr_aligned": "the same, orientation 0 0 0 1 where the base has not turned",
    "hand_vel": "velocity and angular velocity of the palm, world",
    "tips": "fingertips, thumb to little finger: position, orientation; world",
    "pads": "the pads' middles likewise",
    "fingertip_poses_world": "`tips` in one row",
    "fingertip_poses_hand": "`tips` as seen from the palm, in one row",
    "fingerpad_poses_world": "`pads` in one row",
    "fingerpad_poses_hand": "`pads` as seen from the palm, in one row",
    "finger_forces": "contact force on each finger's last link, N, world",
    "contact_forces": "the same in one row",
    "contact_force_magnitude": "their lengths, N",
    "contact_binary": "1 where that is above `task.contact_binary_threshold`",
    "contact_duration": "for how long it has been, s",
    "base_dof_pos": "the base's joints: x y z m, turns rad",
    "base_dof_vel": "their velocities",
    "base_dof_target": "their targets",
    "all_finger_dof_pos": "the fingers' joints, rad",
    "all_finger_dof_vel": "their velocities, rad/s",
    "all_finger_dof_target": "their targets",
    "active_finger_dof_pos": "of those one for each finger action",
    "active_finger_dof_vel": "their velocities",
    "active_finger_dof_target": "the fingers' action targets",
    "fingertip_forces": "force on each pad in its own frame: into the skin, towards the tip, to the right, N",
    "fingertip_normal_force": "the real hand's sensors: force into the pad, N",
    "fingertip_tangential_force": "along the pad, N",
    "fingertip_tangential_direction": "in which direction: cosine and sine for each finger",
    "fingertip_contact": "1 where they feel anything",
    "reported_pads": "where the reported joints put the pads, as seen from the palm, m",
    "reported_pad_distances": "distances between them: 1-2, 1-3, 1-4, 1-5, 2-3, ... 4-5, m",
}
"""Quantity -> what it is, of all that every task has, and of an object."""


def readable() -> List[str]:
    """What rewards, endings and quantities of every task may read as m["name"]."""
    env: Any = gymnasium.make_vec("DexHand/BoxGrasping-v0", num_envs=7, device="cpu").unwrapped
    alone: Any = gymnasium.make_vec("DexHand/BaseTask-v0", num_envs=7, device="cpu").unwrapped
    missing = [name for name in alone.observable() if name not in READABLE and not name.startswith("prev_")]
    assert not missing, f"READABLE does not say what these are: {missing}"
    rows = []
    for name, what in READABLE.items():
        shape = ", ".join(["N", *map(str, env.measured[name].shape[1:])])
        rows.append((f"`{name}`", f"[{shape}]", what))
    env.close()
    alone.close()
    return markdown(("`m[...]`", "shape", "what it is"), rows)


def physics() -> List[str]:
    names = {"substeps": "substeps", "solver.iterations": "iterations (0: until it converges)"}
    names |= {"solver.ls_iterations": "line search", "solver.cone": "friction cone"}
    rows = []
    for field, label in names.items():
        cells = []
        for preset in PHYSICS.values():
            value = dataclasses.asdict(preset)
            for part in field.split("."):
                value = value[part]
            cells.append(value)
        rows.append((f"`sim.{field}`", label, *cells))
    return markdown(("", "", *PHYSICS), rows)


def endings() -> List[str]:
    rows = []
    for name, where in tasks().items():
        cls, task = task_class(where), configs.default_config(name).task
        registered = next(id for id in registry if id.startswith(f"DexHand/{name}-v"))
        env = gymnasium.make_vec(registered, num_envs=1, device="cpu").unwrapped
        criteria = [", ".join(f"`{x}`" for x in found) for found in (env.success_criteria, env.failure_criteria)]
        steps = f"{task.episode_length} ({task.episode_length * env.control_dt:g} s)"
        rows.append((f"[{cls.__name__}](../{cls.__module__.replace('.', '/')}.py)", *criteria, steps))
        env.close()
    return markdown(("task", "success", "failure", "time-out, steps"), rows)


def task_sizes() -> List[str]:
    """Of all tasks: numbers of actions and observations, and the policies that come with the package."""
    rows = []
    for name, where in tasks().items():
        cls, env = task_class(where), gymnasium.make_vec(f"DexHand/{name}-v0", num_envs=1, device="cpu").unwrapped
        more, critic = env.single_observation_space.shape[0], env.single_critic_space
        folder = ROOT / "dexhand_gym" / "pretrained" / name
        policies = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
        rows.append(
            (
                f"[{name}](../{cls.__module__.replace('.', '/')}.py)",
                env.single_action_space.shape[0],
                more,
                critic.shape[0] - more if critic else 0,
                ", ".join(f"`{each}`" for each in policies),
            )
        )
        env.close()
    return markdown(("task", "actions", "the policy sees", "only the critic sees", "`--checkpoint pretrained:`"), rows)


def weights() -> List[str]:
    """Reward terms of all tasks with their weights; those of 0 are only logged."""
    rows = []
    for name in tasks():
        found = configs.default_config(name).task.reward_weights
        paid = [f"`{term}` {weight:g}" for term, weight in found.items() if weight]
        rows.append((name, ", ".join(paid), ", ".join(f"`{term}`" for term, weight in found.items() if not weight)))
    return markdown(("task", "paid", "told, weight 0"), rows)


def sentences(cls: type) -> Dict[str, str]:
    """Field -> the string below it in the source of a dataclass, in one line."""
    (found,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(found, ast.ClassDef)
    told: Dict[str, str] = {}
    for field, below in zip(found.body, found.body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            told[field.target.id] = " ".join(str(below.value.value).split())
    return told


def shown(value: object) -> str:
    """A default as a flag has it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def ppo() -> List[str]:
    """PPO's settings, and what tasks say instead of their defaults."""
    others: Dict[str, Dict[str, List[str]]] = {}
    for name, where in tasks().items():
        for field, value in task_class(where).train_defaults.items():
            others.setdefault(field, {}).setdefault(shown(value), []).append(name)
    told, rows = sentences(PPOConfig), []
    for field in dataclasses.fields(PPOConfig):
        own = "; ".join(f"{value}: {together(names)}" for value, names in others.get(field.name, {}).items())
        rows.append((field.name, shown(field.default), own, told[field.name]))
    return markdown(("`--train.`", "default", "of a task", ""), rows)


TABLES: Dict[str, Callable[[], List[str]]] = {
    function.__name__: function
    for function in (actions, dofs, speeds, observations, readable, physics, endings, task_sizes, weights, ppo)
}


def filled(text: str) -> str:
    """A page with its tables as the code has them. Raises ValueError, one line, for marks that do not belong together."""
    parts = re.split(r"(<!--.*?-->)", text)  # every second one is a mark
    for i in range(1, len(parts), 2):
        name = parts[i].strip("<!- >").partition("table:")[2].strip()
        if name:
            check_name("table", name, TABLES)
            if parts[i + 2 : i + 3] != ["<!-- end -->"]:
                raise ValueError(f"table {name!r} has no <!-- end --> before the next mark")
            parts[i + 1] = "\n\n" + "\n".join(TABLES[name]()) + "\n\n"
    return "".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    new: Dict[Path, str] = {}
    for page in sorted(Path(__file__).parent.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        try:
            made = filled(text)
        except ValueError as error:
            sys.exit(f"error: {page.name}: {error}")
        if made != text:
            new[page] = made
    for page, text in new.items() if not check else ():
        page.write_text(text, encoding="utf-8")
    if new:
        print(f"{'not as the code is' if check else 'written'}: {', '.join(page.name for page in new)}")
    return int(bool(new) and check)


if __name__ == "__main__":
    sys.exit(main())
