"""The control loop: at a fixed rate, with an eye on deadlines and on the hand."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Protocol

import numpy as np

from .contract import Contract
from .observer import Observer
from .policy import Policy
from .targets import Targets

Array = Any
MOST_SECONDS = 1e6
OPENING = 1.0
"""s that opening the hand takes at most when a run is interrupted."""


class Body(Protocol):
    """Whatever has fingers."""

    def send(self, targets: Array) -> None:
        """Takes action targets [T] for the next control step."""
        ...

    def read(self) -> Dict[str, Any]:
        """Readings of this instant, see observer.py."""
        ...

    def health(self) -> Dict[str, Any]:
        """stalls: how many so far; temperatures: name -> degrees C. Either may be missing."""
        ...


@dataclass
class Safety:
    """When to stop. A stop holds the hand where it is."""

    most_lost: int = 5
    """Control steps in a row without feedback; until then the hand holds its targets."""
    most_stalls: int = 20
    """Errors that the hand reports, in all."""
    hottest: float = 70.0
    """Degrees C of any fingertip."""


@dataclass
class Run:
    """What happened. `why` it ended: "done", or what stopped it."""

    why: str = "done"
    steps: int = 0
    late: int = 0
    """Steps that took longer than control_dt."""
    worst: float = 0.0
    """How much longer the worst of them took, s."""
    busy: float = 0.0
    """Mean time that a step computed, s."""
    policy: str = ""
    """Contract.name."""
    lost: int = 0
    """Steps without feedback."""
    log: Dict[str, List[Any]] = field(default_factory=dict)
    """Of every step with feedback: its number, time, observation, action, targets and readings."""


def run(
    contract: Contract,
    body: Body,
    seconds: float,
    targets: Targets,
    policy: Optional[Policy] = None,
    safety: Optional[Safety] = None,
    realtime: bool = True,
    tell: Callable[[Run, Dict[str, Any], Array], bool] = lambda run, readings, targets: False,
) -> Run:
    """Runs a policy for so long. `realtime` False: as fast as it goes, for simulations. `tell` is called after every step,
    and ends the run by returning True. Ctrl-C opens the hand, at the speed limits, and returns."""
    count = steps_in(contract, seconds)
    policy, safety, observer, found = policy or Policy(contract), safety or Safety(), Observer(contract), Run()
    found.policy = contract.name
    first = begin = time.perf_counter()
    missing, elapsed = 0, 0.0
    try:
        while found.steps < count:
            readings = body.read()
            elapsed += contract.control_dt if found.steps else 0.0
            observation = observed(observer, readings, targets.current, elapsed)
            missing = 0 if observation is not None else missing + 1
            if observation is not None:
                action, elapsed = policy(observation), 0.0
                observer.acted(action)
                targets(action)
                note(found, first, observation, action, targets.current, readings)
            body.send(targets.current)
            found.lost += observation is None
            found.steps += 1
            found.why = stopped(missing, body.health(), safety)
            if found.why != "done" or tell(found, readings, targets.current):
                break
            begin = wait(found, begin, contract.control_dt, realtime)
    except KeyboardInterrupt:
        found.why = "interrupted"
        open_hand(contract, body, targets, realtime)
    return found


def steps_in(contract: Contract, seconds: float) -> int:
    """Control steps. Raises ValueError, one line, for a time that is none."""
    if not contract.control_dt <= seconds <= MOST_SECONDS:
        raise ValueError(f"seconds = {seconds}: allowed is {contract.control_dt:g} to {MOST_SECONDS:g}")
    return round(seconds / contract.control_dt)


def observed(observer: Observer, readings: Dict[str, Any], targets: Array, elapsed: float) -> Optional[Array]:
    """The observation; None where a reading is not a number, because it has not come."""
    values = [np.asarray(x, float) for x in readings.values()]
    if not all(np.isfinite(x).all() for x in values):
        return None
    return observer(readings, targets, elapsed)


def stopped(missing: int, health: Dict[str, Any], safety: Safety) -> str:
    """Why the hand has to stop, or "done"."""
    if missing > safety.most_lost:
        return f"no feedback for {missing} control steps: allowed are {safety.most_lost}"
    if health.get("stalls", 0) > safety.most_stalls:
        return f"{health['stalls']} stalls: allowed are {safety.most_stalls}"
    for name, found in health.get("temperatures", {}).items():
        if found > safety.hottest:
            return f"fingertip {name} has {found:.0f} degrees C: allowed are {safety.hottest:.0f}"
    return "done"


def note(found: Run, first: float, observation: Array, action: Array, targets: Array, readings: Dict[str, Any]) -> None:
    """Adds a step to the log."""
    row = {"step": found.steps, "time": time.perf_counter() - first, "observation": observation, "action": action}
    row["targets"] = targets.copy()
    for name, value in {**row, **{f"reading_{name}": np.array(x) for name, x in readings.items()}}.items():
        found.log.setdefault(name, []).append(value)


def wait(found: Run, begin: float, dt: float, realtime: bool) -> float:
    """Waits until the step that began at `begin` is over, and returns when the next begins. One that is late shortens no
    other: the next begins at once."""
    now = time.perf_counter()
    busy = now - begin
    found.busy += (busy - found.busy) / found.steps
    if busy > dt:
        found.late += 1
        found.worst = max(found.worst, busy - dt)
    if not realtime or busy > dt:
        return now
    time.sleep(max(0.0, begin + dt - now))
    return begin + dt


def open_hand(contract: Contract, body: Body, targets: Targets, realtime: bool) -> None:
    """Moves the fingers to where they lie open (0, or the limit next to it) at the speed limits; the base stays."""
    wanted = np.clip(np.zeros_like(targets.current), contract.lower, contract.upper)
    wanted[: contract.base] = targets.current[: contract.base]
    for _ in range(round(OPENING / contract.control_dt)):
        targets.current = np.clip(
            wanted, targets.current - contract.max_change, targets.current + contract.max_change
        ).astype(np.float32)
        body.send(targets.current)
        if realtime:
            time.sleep(contract.control_dt)


def save_log(found: Run, file: Any) -> None:
    """Writes the log as a .npz file of arrays [steps, ...]."""
    arrays: Dict[str, Any] = {name: np.array(rows) for name, rows in found.log.items()}
    np.savez_compressed(file, policy=np.array(found.policy), **arrays)
