"""Exports a policy, so that it runs without this package:

    python -m dexhand_gym.export --checkpoint latest --out exported

The folder then holds

| file            | content                                                                                            |
|-----------------|----------------------------------------------------------------------------------------------------|
| `policy.onnx`   | "observations" [N, O] -> "actions" [N, A] in [-1, 1]; normaliser and clamps are inside             |
| `policy.npz`    | the same weights: mean, std, clamp, weight0, bias0, ..., activation                                |
| `contract.json` | what it sees and does, in order, with units, limits, start pose and what else must be known        |
| `model.xml`     | the scene as plain MuJoCo reads it, without what is only seen                                      |

onnxruntime, NumPy and torch agree within 1e-5 on random observations and on those of an episode; otherwise nothing is
written. dexhand_deploy runs it. What is added to the command is read as train_ppo.py reads it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import numpy as np
import torch

import dexhand_gym
from dexhand_deploy import Contract, Policy
from dexhand_deploy.contract import FORMAT
from dexhand_deploy.observer import OBSERVED
from dexhand_gym import find_task
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.actions import clamp_position, clamp_velocity, position, position_delta  # noqa: F401
from dexhand_gym.hands.pair import parts_of
from dexhand_gym.sim.base import SimConfig

AGREE = 1e-5
"""What runtimes may differ by."""
STEPS = 64
"""Of an episode whose observations are compared."""
PALM, WORLD, PAD = "palm", "world", "pad"
KNOWN: Dict[str, Tuple[str, str, bool]] = {
    "base_dof_pos": ("m, rad", "the hand's root", True),
    "base_dof_vel": ("m/s, rad/s", "the hand's root", False),
    "base_dof_target": ("m, rad", "the hand's root", True),
    "active_finger_dof_pos": ("rad", "joints", True),
    "active_finger_dof_vel": ("rad/s", "joints", False),
    "active_finger_dof_target": ("rad", "joints", True),
    "last_actions": ("1", "actions", True),
    "prev_actions": ("1", "actions", True),
    "contact_forces": ("N", WORLD, False),
    "contact_force_magnitude": ("N", "", False),
    "contact_binary": ("0 or 1", "", False),
    "contact_duration": ("s", "", False),
    "first_three_fingerpad_centroid": ("m", WORLD, False),
    "fingerpad_distances": ("m", "", False),
    "finger_box_contact": ("0 or 1", "", False),
    "finger_to_object_distances": ("m", "", False),
    "grasp_duration": ("s", "", False),
    "hold_duration": ("s", "", False),
    "episode_time": ("s", "", False),
    "hand_pose": ("m, quaternion", WORLD, False),
    "object_pos": ("m", WORLD, False),
    "object_quat": ("quaternion", WORLD, False),
    "object_vel": ("m/s, rad/s", WORLD, False),
    "object_points": ("m", "object", False),
    "object_in_palm": ("m, quaternion, m/s, rad/s", PALM, False),
    "goal": ("quaternion", PALM, False),
    "goal_difference": ("quaternion", PALM, False),
    "goal_age": ("s", "", False),
    "palms_to_box": ("m", "", False),
    "press": ("N", "", False),
    "fingertip_normal_force": ("N", PAD, True),
    "fingertip_tangential_force": ("N", PAD, True),
    "fingertip_tangential_direction": ("cosine, sine", PAD, True),
    "fingertip_contact": ("0 or 1", "", True),
    "reported_pads": ("m", PALM, True),
    "reported_pad_distances": ("m", "", True),
}
"""Observation -> unit, frame, and whether the real hand and its arm report it."""
NOTES = (
    "observation = clip((raw - mean) / std, -clamp, clamp) with std = sqrt(variance + 1e-5); the policy's files do this",
    "actions are clamped to [-1, 1]",
    "position_delta: a target moves by action * max_change; position: [-1, 1] spans lower to upper, and a step changes a "
    "target by max_change at most; then targets are clamped to lower and upper",
    "targets of joints = coupling applied to targets of actions, as `joints` of each action says; positive bends towards "
    "the palm",
    "what the policy does not control stays at the start of the episode",
    "active_finger_dof_* are the joints in hand.active_joints, one for each finger action",
    "contact_forces are those of hand.fingers[].contact in world axes, as the world pushes on the finger; of the first "
    "observation of an episode they are 0",
    "fingertip_* are the same force in the pad's frame: normal into the skin, 0 degrees to the tip, 90 to the right",
    "contact_duration grows by control_dt while contact_binary is 1 and is 0 otherwise",
    "in the simulation an observation is of one physics step before the end of a control step, all of it of that instant",
    "history: the observations of so many control steps ago follow the newest one; before an episode is that old they are "
    "its first",
    "the hand has no weight in the simulation: an arm carries it; objects decide the friction of their contacts (priority "
    "1), and fingers collide with objects and ground, not with each other, unless physics.self_collision says so",
)


def main(argv: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="latest, a run, a .pth file, or pretrained")
    parser.add_argument("--out", required=True, help="a folder, which is made")
    parser.add_argument("--starts", type=int, default=64, help="of episodes, in the contract")
    args, others = parser.parse_known_args(argv)
    configs, policy = ours()
    try:
        if not 1 <= args.starts <= 10**5:
            raise ValueError(f"--starts {args.starts}: allowed is 1 to 100000")
        flags = ["--test", "--checkpoint", args.checkpoint, "--device", "cpu", "--num-envs", "1", *others]
        cfg = configs.parse(flags)
        cfg.task.randomize = type(cfg.task.randomize)()  # the contract is of the nominal hand
        folder = export(cfg, policy, Path(args.out), args.starts)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{args.checkpoint} is in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if missing := [name for name in Contract(folder).observations if name not in OBSERVED]:
        print(
            f"python -m dexhand_gym.deploy cannot play it: your own body has to give the readings {', '.join(missing)}"
        )
    return 0


def ours() -> Tuple[Any, Any]:
    """configs.py and ppo/policy.py, which an installed package has within itself."""
    try:
        from dexhand_gym.command import configs  # pyright: ignore[reportAttributeAccessIssue]
        from dexhand_gym.ppo import policy  # pyright: ignore[reportMissingImports]
    except ImportError:
        import configs
        from ppo import policy
    return configs, policy


def export(cfg: Any, policy: Any, out: Path, starts: int = 64) -> Path:
    """Writes the folder. Raises ValueError, one line, and leaves `out` as it was, if anything fails."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: allowed is a folder that is empty or not there yet")
    env: Any = make_vec_env(find_task(cfg.task_name), 1, cfg, 0)
    try:
        check_exportable(env)
        loaded = policy.Policy(env, cfg.train, Path(str(cfg.train.checkpoint)))
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as made:
            folder = Path(made)
            layers = layers_of(loaded.agent)
            write_npz(folder / "policy.npz", layers)
            write_onnx(folder / "policy.onnx", layers)
            contract = contract_of(env, cfg, loaded.agent, loaded.iteration, starts)
            (folder / "contract.json").write_text(json.dumps(contract, indent=1) + "\n", encoding="utf-8")
            (folder / "model.xml").write_text(plain_model(env), encoding="utf-8")
            check(folder, env, loaded.agent)
            out.mkdir(exist_ok=True)
            for path in folder.iterdir():
                os.chmod(path, 0o644)
                shutil.move(str(path), out / path.name)
    finally:
        env.close()
    return out


def check_exportable(env: Any) -> None:
    """Raises ValueError, one line, for what a contract cannot say."""
    if parts_of(env.hand):
        raise ValueError(f"env.hand = {env.cfg.env.hand!r}: allowed for an export is one hand")
    usual = [clamp_velocity, clamp_position], globals()[env.task.control_mode]
    if (env.post_action_filters, env.action_rule) != usual or "Stages.__init__" not in env.pre_action_rule.__qualname__:
        raise ValueError("the task replaces stages of its actions: allowed for an export are those of actions.py")


# --- The network -----------------------------------------------------------------------------------------------------


def layers_of(agent: Any) -> Dict[str, Any]:
    """The policy's numbers by name, as policy.npz has them."""
    normaliser, network = agent.running_mean_std, agent.a2c_network
    width = agent.obs_size
    mean, std, clamp = np.zeros(width, np.float32), np.ones(width, np.float32), np.float32(np.finfo(np.float32).max)
    if normaliser is not None:
        mean, std, clamp = normaliser.running_mean.float().numpy(), normaliser.std().numpy(), np.float32(5.0)
    found = {"mean": mean, "std": std, "clamp": clamp, "activation": np.array(agent.activation)}
    linear = [*(layer for layer in network.actor_mlp if isinstance(layer, torch.nn.Linear)), network.mu]
    for i, layer in enumerate(linear):
        found[f"weight{i}"], found[f"bias{i}"] = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return found


def write_npz(file: Path, layers: Dict[str, Any]) -> None:
    np.savez(file, **layers)


def write_onnx(file: Path, layers: Dict[str, Any]) -> None:
    """The same as a graph of ONNX. Raises ValueError, one line, where onnx is not installed."""
    try:
        from onnx import TensorProto, checker, helper, numpy_helper, save
    except ImportError:
        raise ValueError("policy.onnx needs onnx: pip install 'dexhand-gym[export]'") from None
    count = sum(name.startswith("weight") for name in layers)
    constants = {name: x for name, x in layers.items() if name != "activation"}
    constants.update(least=-constants["clamp"], one=np.float32(1.0), minus_one=np.float32(-1.0))
    nodes = [
        helper.make_node("Sub", ["observations", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "least", "clamp"], ["x0"]),
    ]
    for i in range(count):
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"weight{i}", f"bias{i}"], [f"y{i}"], transB=1))
        if i < count - 1:
            nodes += activation_nodes(helper, str(layers["activation"]), f"y{i}", f"x{i + 1}")
    nodes.append(helper.make_node("Clip", [f"y{count - 1}", "minus_one", "one"], ["actions"]))
    width, actions = len(layers["mean"]), len(layers[f"bias{count - 1}"])
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observations", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["batch", actions])],
        [numpy_helper.from_array(np.asarray(x, np.float32), name) for name, x in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model)
    save(model, str(file))


def activation_nodes(helper: Any, name: str, source: str, to: str) -> List[Any]:
    """Nodes that compute one activation."""
    if name == "swish":
        gate = helper.make_node("Sigmoid", [source], [f"{source}_gate"])
        return [gate, helper.make_node("Mul", [source, f"{source}_gate"], [to])]
    operator = {"elu": "Elu", "relu": "Relu", "selu": "Selu", "tanh": "Tanh"}.get(name)
    if operator is None:
        raise ValueError(f"train.activation = {name!r}: allowed for an export is elu, relu, selu, tanh or swish")
    return [helper.make_node(operator, [source], [to])]


def check(folder: Path, env: Any, agent: Any) -> None:
    """Raises ValueError, one line, unless all runtimes compute what torch does."""
    contract = Contract(folder)
    rows = torch.cat((episode(env, agent), 3 * torch.randn(64, agent.obs_size)))
    with torch.no_grad():
        wanted = agent.act_deterministic(rows).clamp(-1.0, 1.0).numpy()
    for runtime in ("numpy", "onnx"):
        off = float(np.abs(Policy(contract, runtime)(rows.numpy()) - wanted).max())
        if not off <= AGREE:
            raise ValueError(f"{runtime} differs from torch by {off:.1e}: allowed is {AGREE:.0e}")


def episode(env: Any, agent: Any) -> torch.Tensor:
    """Observations [STEPS, O] of an episode."""
    obs, _ = env.reset(seed=0)
    rows = []
    with torch.no_grad():
        for _ in range(STEPS):
            rows.append(obs[0].clone())
            obs, *_ = env.step(agent.to_env(agent.act_deterministic(obs)))
    return torch.stack(rows)


# --- The contract ----------------------------------------------------------------------------------------------------


def contract_of(env: Any, cfg: Any, agent: Any, iteration: int, starts: int) -> Dict[str, Any]:
    """All that has to be known to use the policy, as JSON has it."""
    hand, task, sim = env.hand, cfg.task, cfg.sim
    seen = env.observations()
    observations = []
    for name in task.policy_observation_keys:
        unit, frame, real = KNOWN.get(name, ("", "", False))
        width = seen[name].shape[1]
        observations.append({"name": name, "width": width, "unit": unit, "frame": frame, "real_hand": real})
    return {
        "format": FORMAT,
        "task": cfg.task_name,
        "checkpoint": Path(str(cfg.train.checkpoint)).name,
        "iteration": iteration,
        "versions": versions(),
        "control_dt": env.control_dt,
        "observations": observations,
        "history": list(task.observation_history),
        "actions": actions_of(env),
        "control_mode": task.control_mode,
        "touch": {"threshold": task.contact_binary_threshold, "unit": "N"},
        "normaliser": normaliser_of(agent),
        "hand": {
            "name": cfg.env.hand,
            "joints": list(hand.dof_names),
            "joint_lower": list(hand.dof_lower),
            "joint_upper": list(hand.dof_upper),
            "active_joints": active_joints(hand),
            "palm": hand.palm,
            "fingers": [finger._asdict() for finger in hand.fingers],
            "links": links_of(env.sim.scene),
            "drives": {name: hand.drives[name] for name in hand.dof_names},
        },
        "physics": {
            "dt": sim.dt,
            "substeps": sim.substeps,
            "decimation": task.decimation,
            "timestep": sim.dt / sim.substeps,
            "gravity": list(sim.gravity),
            "solver": dataclasses.asdict(sim.solver),
            "hand_height": env.sim.scene.hand_height,
            "hand_quat": list(env.sim.scene.hand_quat),
            "self_collision": env.sim.scene.self_collision,
            "objects": [described(thing) for thing in env.sim.scene.objects],
        },
        "starts": starts_of(env, starts),
        "notes": list(NOTES),
    }


def versions() -> Dict[str, str]:
    """Of what made the export; the commit, where there is one."""
    import mujoco

    found = {"dexhand_gym": dexhand_gym.__version__, "torch": str(torch.__version__), "mujoco": mujoco.__version__}
    root = Path(__file__).resolve().parent.parent
    if (root / ".git").exists():
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
        found["commit"] = done.stdout.strip()
    return found


def actions_of(env: Any) -> List[Dict[str, Any]]:
    """All action targets in order."""
    hand, limits = env.hand, env.limits
    lower, upper, most = (x.tolist() for x in limits)
    controlled = {True: env.task.policy_controls_fingers, False: env.task.policy_controls_base}
    middle = middle_start(env)
    return [
        {
            "name": name,
            "kind": kind,
            "unit": "m" if kind == "slide" else "rad",
            "lower": lower[i],
            "upper": upper[i],
            "max_change": most[i],
            "max_speed": most[i] / env.control_dt,
            "start": middle[i],
            "controlled": controlled[kind == "finger"],
            "joints": dict(hand.all_actions[name]),
        }
        for i, (name, kind) in enumerate(zip(hand.action_names, hand.action_kinds))
    ]


def middle_start(env: Any) -> List[float]:
    """The mean of many starts, action targets [T]."""
    return sampled(env, 1000)["hand"].mean(0).tolist()


def starts_of(env: Any, count: int) -> Dict[str, Any]:
    """What so many episodes begin with: action targets [T], and world poses of objects [7]."""
    return {name: [[round(x, 6) for x in row] for row in rows.tolist()] for name, rows in sampled(env, count).items()}


def sampled(env: Any, count: int) -> Dict[str, torch.Tensor]:
    """Random starts [count, ...] by name."""
    env.generator.manual_seed(0)
    drawn = [env.sample_start() for _ in range(count)]
    return {name: torch.cat([start[name] for start in drawn]) for name in drawn[0]}


def normaliser_of(agent: Any) -> Dict[str, Any]:
    layers = layers_of(agent)
    if agent.running_mean_std is None:
        return {}
    return {"mean": layers["mean"].tolist(), "std": layers["std"].tolist(), "clamp": 5.0, "epsilon": 1e-5}


def active_joints(hand: Any) -> List[str]:
    """The joint of each finger action whose angle is observed."""
    fingers = list(hand.dof_names[hand.num_base :])
    rows = hand.active_dofs
    return fingers[rows] if isinstance(rows, slice) else [fingers[i] for i in rows]


def links_of(scene: Any) -> List[Dict[str, Any]]:
    """The hand's bodies with their places and joints; quaternions x y z w."""
    links = scene.hand.links
    names = [link.name for link in links]
    return [
        {
            "name": link.name,
            "parent": names[link.parent] if link.parent >= 0 else "",
            "pos": list(link.pos),
            "quat": [*link.quat[1:], link.quat[0]],
            "joint": link.joint.get("name", ""),
            "type": link.joint.get("type", "hinge"),
            "axis": [float(x) for x in link.joint.get("axis", "0 0 1").split()],
        }
        for link in links
    ]


def described(thing: Any) -> Dict[str, Any]:
    """An object's fields; of one that is another in each environment only that it is."""
    if hasattr(thing, "of"):
        return {"name": thing.name, "any_of": len(thing.of)}
    return dataclasses.asdict(thing)


def plain_model(env: Any) -> str:
    """The scene as MJCF, with gravity, and hands that an arm carries; meshes of objects are in it."""
    import mujoco  # pyright: ignore

    from dexhand_gym.sim.mjcf import build_spec

    cfg: SimConfig = env.cfg.sim
    spec = build_spec(env.sim.scene, cfg)
    spec.option.gravity = cfg.gravity
    spec.option.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_GRAVITY)  # pyright: ignore[reportAttributeAccessIssue]
    for name in env.hand.body_names:
        spec.body(name).gravcomp = 1.0
    spec.compiler.meshdir = spec.compiler.texturedir = ""  # folders of this machine; nothing here is read from a file
    spec.compile()
    return spec.to_xml()


if __name__ == "__main__":
    sys.exit(main())
