"""Repeats a run in simulation, with the same commands, and tells how far the joints were apart:

    python -m dexhand_gym.replay run.npz --policy exported [--fit] [--show] [--video run.mp4]

The log is that of `python -m dexhand_deploy --log run.npz`, the folder the policy's export. Writes run.png, angles and
their differences joint by joint, and prints a table. With --fit it looks for the stiffness and damping of the fingers'
drives, as factors of the simulation's, and for the delay of commands with which the simulation comes nearest (least
squares), prints them and writes run.yaml: ranges around them for `train_ppo.py --config run.yaml`. A log for that is of
fingers that move freely and at different speeds; objects are out of their reach. --show plays what the hand reported
beside the simulation, in a window or, without a display, on a page for the browser; --video writes that as a file.
"""

from __future__ import annotations

import argparse
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
import numpy as np
import yaml

from dexhand_deploy import Contract, SimBody

MOST_DELAY = 8
"""Control steps."""
AROUND = 1.2
"""Ranges reach from the fitted factor over this to it times this."""
WIDEST = 2.0
"""Factors are looked for within exp(+-this)."""
MOST_STEPS = 10**6
FAR = 1e6
"""m or rad."""
LOGGED = ("step", "targets", "reading_angles", "reading_base")
Array = Any


class Log(NamedTuple):
    """What was commanded and reported, of S control steps."""

    targets: Array  # [S, T] action targets; of a step without feedback those before
    angles: Array  # [S, A] at the beginning of each step, rad; not a number where there was no feedback
    base: Array  # [S, B] where the base was, likewise


class Fit(NamedTuple):
    """Factors of stiffness and damping, delay in control steps, and the error that is left, rad (root mean square)."""

    stiffness: float
    damping: float
    delay: int
    error: float


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", help="a .npz file of dexhand_deploy")
    parser.add_argument("--policy", required=True, help="the folder of the export that ran")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--show", action="store_true", help="the log beside the simulation: a window, or a page")
    parser.add_argument("--video", metavar="FILE.mp4", help="the same as a file")
    args = parser.parse_args(argv)
    try:
        contract = Contract(args.policy)
        if shown := args.show or args.video is not None:
            from dexhand_gym import side_by_side  # not otherwise: it loads torch

            side_by_side.check(contract, args.show, args.video)
        log = read(Path(args.log), contract)
        body = SimBody(contract)
        joints = simulate(body, log)
        print("\n".join(table(contract, log, joints[:, body.active])))
        if args.fit:
            best = fit(body, log)
            print(
                f"stiffness {best.stiffness:.2f} and damping {best.damping:.2f} of the simulation's, commands "
                f"{best.delay} control steps late: {np.degrees(best.error):.2f} degrees are left"
            )
            write_ranges(Path(args.log).with_suffix(".yaml"), best)
            joints = simulate(body, log, best.stiffness, best.damping, best.delay)
        found = joints[:, body.active]
        draw(contract, log, found, Path(args.log).with_suffix(".png"))
        if shown:
            hands = np.stack((joints, reported(contract, log) @ contract.coupling.T), 1)
            side_by_side.play(contract, hands, found - log.angles, args.show, args.video)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def read(file: Path, contract: Contract) -> Log:
    """Raises ValueError, one line, for a file that is no log of this policy."""
    try:
        with np.load(file) as stored:
            missing = [name for name in LOGGED if name not in stored.files]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}: allowed is a log of dexhand_deploy")
            arrays = {name: stored[name] for name in (*LOGGED, *({"policy"} & set(stored.files)))}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: not read, {error}") from None
    check(file, arrays, contract)
    steps, said = arrays["step"].astype(int), arrays["targets"]
    count = int(steps[-1]) + 1
    rows = np.searchsorted(steps, np.arange(count), side="right") - 1
    angles, base = (np.full((count, arrays[name].shape[1]), np.nan) for name in LOGGED[2:])
    angles[steps], base[steps] = arrays["reading_angles"], arrays["reading_base"]
    return Log(said[np.maximum(rows, 0)], angles, base)


def check(file: Path, arrays: Dict[str, Any], contract: Contract) -> None:
    """Raises ValueError, one line, unless these are steps of this policy."""
    policy = str(arrays.pop("policy", contract.name))
    if policy != contract.name:
        raise ValueError(f"{file} is of {policy}: allowed is a log of {contract.name}")
    widths = {"targets": len(contract.targets), "reading_angles": len(contract.targets) - contract.base}
    count = len(arrays["step"]) if arrays["step"].ndim == 1 else 0
    for name, width in {**widths, "reading_base": contract.base}.items():
        shape, kind = arrays[name].shape, arrays[name].dtype.kind
        if shape != (count, width) or kind not in "fiu" or not count or not (np.abs(arrays[name]) < FAR).all():
            allowed = f"finite numbers [steps, {width}], less than {FAR:g}"
            raise ValueError(f"{file}: {name} is {arrays[name].dtype} {shape}, allowed are {allowed}")
    steps = arrays["step"]
    if steps.dtype.kind not in "iu" or steps[0] < 0 or (np.diff(steps) <= 0).any() or steps[-1] > MOST_STEPS:
        raise ValueError(f"{file}: step is no count that rises, {MOST_STEPS} at most")


def simulate(body: SimBody, log: Log, stiffness: float = 1.0, damping: float = 1.0, delay: int = 0) -> Array:
    """The joints [S, D] of the simulated hand under the same commands, `delay` control steps later."""
    contract, model = body.contract, body.model
    fingers = body.drives[[name not in contract.targets[: contract.base] for name in contract.joints]]
    before = model.actuator_gainprm.copy(), model.actuator_biasprm.copy()
    model.actuator_gainprm[fingers, 0] *= stiffness
    model.actuator_biasprm[fingers, 1] *= stiffness
    model.actuator_biasprm[fingers, 2] *= damping
    try:
        start = reported(contract, log)[0]
        body.reset({"hand": start, **{name: aside(i) for i, name in enumerate(body.objects)}})
        found = []
        for i in range(len(log.targets)):
            found.append(body.state[0][body.positions])
            body.send(log.targets[i - delay] if i >= delay else start)
    finally:
        model.actuator_gainprm[:], model.actuator_biasprm[:] = before
    return np.array(found)


def reported(contract: Contract, log: Log) -> Array:
    """The action targets [S, T] at which the hand said that it was: of a step without feedback those before, or, at the
    beginning, the first ones."""
    active = [contract.joints.index(name) for name in contract.said["hand"]["active_joints"]]
    scale = contract.coupling[active, contract.base + np.arange(len(active))]
    known = np.flatnonzero(np.isfinite(log.angles).all(1))
    rows = known[np.maximum(np.searchsorted(known, np.arange(len(log.angles)), side="right") - 1, 0)]
    return np.concatenate((log.base[rows], log.angles[rows] / scale), 1).astype(np.float32)


def aside(i: int) -> List[float]:
    """A pose out of reach."""
    return [2.0 + i, 2.0, 0.2, 0.0, 0.0, 0.0, 1.0]


def fit(body: SimBody, log: Log) -> Fit:
    """The best of all delays. Raises ValueError, one line, without scipy, and where the log does not tell."""
    try:
        from scipy.optimize import least_squares  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("--fit needs scipy: pip install 'dexhand-gym[replay]'") from None
    known = np.isfinite(log.angles)
    best: Optional[Fit] = None
    for delay in range(MOST_DELAY + 1):

        def off(logarithms: Array, delay: int = delay) -> Array:
            stiffness, damping = np.exp(logarithms)
            return (simulate(body, log, stiffness, damping, delay)[:, body.active] - log.angles)[known]

        found = least_squares(off, np.zeros(2), bounds=(-WIDEST, WIDEST), diff_step=0.02, max_nfev=12)
        stiffness, damping = np.exp(found.x).tolist()
        here = Fit(stiffness, damping, delay, float(np.sqrt(np.mean(found.fun**2))))
        if best is None or here.error < best.error:
            best = here
    assert best is not None
    for name, factor in (("stiffness", best.stiffness), ("damping", best.damping)):
        if abs(np.log(factor)) > 0.98 * WIDEST:
            raise ValueError(
                f"--fit: the {name} is {factor:.2f} times the simulation's, where the search ends: of such a log, in which "
                "fingers touch something or hardly move, it cannot be found"
            )
    return best


def write_ranges(file: Path, best: Fit) -> None:
    """Ranges around what was found, as train_ppo.py reads them."""
    randomize = {
        "finger_stiffness": [round(best.stiffness / AROUND, 3), round(best.stiffness * AROUND, 3)],
        "finger_damping": [round(best.damping / AROUND, 3), round(best.damping * AROUND, 3)],
        "action_delay": [max(0, best.delay - 1), best.delay + 1],
    }
    file.write_text(yaml.safe_dump({"task": {"randomize": randomize}}, sort_keys=False), encoding="utf-8")


def table(contract: Contract, log: Log, found: Array) -> List[str]:
    """Lines of a Markdown table: how far each joint was from the simulation's."""
    off = np.degrees(found - log.angles)
    lines = ["| joint | mean difference, degrees | largest |", "|---|---|---|"]
    for name, column in zip(contract.targets[contract.base :], off.T):
        known = column[np.isfinite(column)]
        lines.append(f"| {name} | {np.sqrt(np.mean(known**2)):.2f} | {np.abs(known).max():.2f} |")
    return lines


def draw(contract: Contract, log: Log, found: Array, file: Path) -> None:
    """Angles, of the log and of the simulation, a panel for each joint."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = contract.targets[contract.base :]
    rows = -(-len(names) // 3)
    figure, panels = plt.subplots(rows, 3, figsize=(12, 2.2 * rows), squeeze=False, sharex=True, layout="tight")
    times = np.arange(len(found)) * contract.control_dt
    targets: Dict[str, Tuple[Array, str]] = {
        "commanded": (log.targets[:, contract.base :], "0.7"),
        "logged": (log.angles, "C0"),
        "simulated": (found, "C1"),
    }
    for i, (axes, name) in enumerate(zip(panels.flat, names)):
        for label, (values, color) in targets.items():
            axes.plot(times, np.degrees(values[:, i]), color=color, label=label, linewidth=1)
        axes.set_title(name, fontsize=9)
    panels[0][0].legend(fontsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("s")
    for axes in panels[:, 0]:
        axes.set_ylabel("degrees")
    figure.savefig(file, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
