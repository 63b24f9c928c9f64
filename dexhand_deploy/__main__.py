"""Runs an exported policy:

    python -m dexhand_deploy --policy exported --body sim|mock|dexhand|ros [--seconds 10] [--episodes 1] [--log run.npz]

sim is plain MuJoCo, mock the vendor's SDK on a simulated bus, dexhand the SDK itself (pyzlg_dexhand), ros the vendor's
ROS 2 node, with the SDK's feedback. The base's targets, for an arm, go to stdout as JSON lines with --arm.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from .contract import Contract
from .dexhand_body import DexHandBody
from .loop import Run, run, save_log, steps_in
from .mock_hand import MockHand
from .policy import Policy
from .ros_body import RosBody, ros2_publisher
from .sim_body import SimBody
from .targets import Targets


def main(argv: Optional[List[str]] = None) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True, help="the folder that dexhand_gym.export has written")
    parser.add_argument("--body", required=True, choices=("sim", "mock", "dexhand", "ros"))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--episodes", type=int, default=1, help="of a simulation, from the contract's starts")
    parser.add_argument(
        "--until-height", type=float, default=0.0, help="an episode succeeds when the object has been above"
    )
    parser.add_argument("--low-pass", type=float, default=0.3, help="of the mock")
    parser.add_argument("--lost", type=float, default=0.01, help="share of frames that the mock loses")
    parser.add_argument("--runtime", default="auto", choices=("auto", "onnx", "numpy"))
    parser.add_argument("--log", help="a .npz file of everything, step by step")
    parser.add_argument("--arm", action="store_true", help="print the base's targets")
    parser.add_argument("--quiet", action="store_true", help="no table")
    args = parser.parse_args(argv)
    try:
        check(args)
        contract = Contract(args.policy)
        steps_in(contract, args.seconds)
        policy, (body, world) = Policy(contract, args.runtime), make_body(contract, args)
        held = 0
        for i in range(args.episodes if world else 1):
            found, success = episode(contract, policy, body, world, args, i)
            held += success
            if found.why != "done":
                return 130 if found.why == "interrupted" else 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # once more, while the hand opened
        return 130
    if args.until_height:
        print(f"{held} of {args.episodes} lifted above {args.until_height} m and held for 2 s")
    return 0


def check(args: Any) -> None:
    """Raises ValueError, one line, for options that make no sense."""
    if args.episodes < 1:
        raise ValueError(f"--episodes {args.episodes}: allowed is 1 or more")
    if not 0 <= args.until_height < 100:
        raise ValueError(f"--until-height {args.until_height}: allowed is 0 to 100 m")
    if args.log and (args.episodes > 1 or Path(args.log).suffix != ".npz" or not Path(args.log).parent.is_dir()):
        raise ValueError(f"--log {args.log}: allowed is a .npz file in a folder that is there, and one episode")


def make_body(contract: Contract, args: Any) -> Tuple[Any, Any]:
    """The body, and the simulation behind it, which has reset() and highest(); None for a real one. Raises ValueError, one
    line, where something is not installed."""
    if args.body == "sim":
        body = SimBody(contract)
        return body, body
    if args.body == "mock":
        hand = MockHand(contract, args.low_pass, args.lost)
        return DexHandBody(contract, hand, hand), hand
    try:
        import pyzlg_dexhand  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"the body {args.body} needs the vendor's SDK: pip install pyzlg_dexhand") from None
    name = "LeftDexHand" if contract.said["hand"]["name"] == "left" else "RightDexHand"
    sdk = getattr(pyzlg_dexhand, name)()
    if not sdk.init():
        raise ValueError(f"{name} cannot be opened: is the CAN adapter there?")
    hand = DexHandBody(contract, sdk)
    return hand if args.body == "dexhand" else RosBody(contract, ros2_publisher(), hand.read, hand.arm), None


def episode(contract: Contract, policy: Policy, body: Any, world: Any, args: Any, i: int) -> Tuple[Run, bool]:
    """One run, and whether the object was held above --until-height for 2 s."""
    targets, held = Targets(contract), 0.0
    if world:
        starts = contract.said["starts"]
        targets.reset(world.reset({name: rows[i % len(rows)] for name, rows in starts.items()}))

    def tell(found: Run, readings: Dict[str, Any], current: Any) -> bool:
        nonlocal held
        if args.arm:
            row = dict(
                zip(contract.targets[: contract.base], np.round(current[: contract.base].astype(float), 6).tolist())
            )
            print(json.dumps({"time": round(found.steps * contract.control_dt, 4), **row}), flush=True)
        if not args.quiet and found.steps % max(1, round(0.5 / contract.control_dt)) == 0:
            print(table(contract, found, readings, current), file=sys.stderr, flush=True)
        if world and args.until_height:
            held = held + contract.control_dt if world.highest() > args.until_height else 0.0
        return held >= 2.0

    found = run(contract, body, args.seconds, targets, policy, realtime=not world, tell=tell)
    if args.log:
        save_log(found, args.log)
    if not args.quiet or found.why != "done":
        late = f"{found.late} late, by {1e3 * found.worst:.1f} ms at most, {1e3 * found.busy:.2f} ms a step"
        print(f"{found.why}: {found.steps} steps, {late}, {found.lost} without feedback", file=sys.stderr)
    return found, held >= 2.0


def table(contract: Contract, found: Run, readings: Dict[str, Any], current: Any) -> str:
    """Angles, targets and forces of this instant."""
    lines = [f"{found.steps * contract.control_dt:6.2f} s   joint      target   angle, degrees"]
    for name, target, angle in zip(contract.targets[contract.base :], current[contract.base :], readings["angles"]):
        lines.append(f"{'':11}{name:10}{np.degrees(target):7.1f}{np.degrees(angle):9.1f}")
    fingers = [finger["name"] for finger in contract.said["hand"]["fingers"]]
    pressed = [f"{name} {force[0]:.1f}" for name, force in zip(fingers, readings["forces_pad"])]
    return "\n".join([*lines, f"{'':11}on fingertips, N: {', '.join(pressed)}"])


if __name__ == "__main__":
    sys.exit(main())
