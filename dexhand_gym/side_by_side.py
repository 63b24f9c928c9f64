"""Two hands that move as they are told, side by side: on the left what a hand reported, on the right the simulation of the
same commands. See replay.py."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import numpy as np
import torch

from dexhand_deploy import Contract
from dexhand_gym.envs.config import CameraConfig, Config, EnvConfig, TaskConfig
from dexhand_gym.envs.vec_env import DexHandVecEnv
from dexhand_gym.sim import Scene, SimConfig
from dexhand_gym.sim.kinematics import Kinematics
from dexhand_gym.watch import check_viewing
from dexhand_gym.watch.render import Renderer, coordinates
from dexhand_gym.watch.video import check_recording, stride, write_clip

CAMERA = CameraConfig(azimuth=225.0)
"""Fingers come towards it, and environment 1 is on the left of environment 0."""
SPACING = 0.5
"""m."""
PLACES = {"hand": "left, environment 1", "simulation": "right, environment 0"}
Array = Any


class SideBySide(DexHandVecEnv):
    """Environment 0 is the hand of the simulation, environment 1 that of the log. Without an engine they stand where put()
    says."""

    def __init__(self, contract: Contract, render_mode: Optional[str] = None):
        self._quat = tuple(contract.said["physics"]["hand_quat"])
        super().__init__(configure(contract), render_mode=render_mode)
        self._kinematics = Kinematics(self.sim.scene.hand_links, self.device)

    def scene(self) -> Scene:
        return Scene(self.cfg.env.hand_height, hand_quat=self._quat)

    @staticmethod
    def rewards(m: Dict[str, torch.Tensor], cfg: Config) -> Dict[str, torch.Tensor]:
        return {}

    def put(self, joints: Array) -> None:
        """Places the hands: joints [2, D], m or rad."""
        self.sim.dof_state[..., 0] = torch.from_numpy(joints)
        self.sim.rigid_body_state.copy_(self._kinematics(self.sim.dof_state))


def configure(contract: Contract) -> Config:
    """Raises ValueError, one line, for a contract whose hand is not the one installed here."""
    said, file = contract.said, contract.folder / "contract.json"
    try:
        name, height, quat = said["hand"]["name"], said["physics"]["hand_height"], [*said["physics"]["hand_quat"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: not whole, {type(error).__name__} {error}") from None
    if len(quat) != 4 or not all(isinstance(x, (int, float)) for x in quat) or not 0.9 < np.hypot.reduce(quat) < 1.1:
        raise ValueError(f"{file}: physics.hand_quat = {quat}: allowed are 4 numbers, a rotation")
    env = EnvConfig(num_envs=2, backend="none", hand=name, hand_height=height, camera=CAMERA, spacing=SPACING)
    endless = TaskConfig(episode_length=10**6)  # a new episode would show its start
    cfg = Config(SimConfig(dt=contract.control_dt), env, endless)
    cfg.validate()
    if list(cfg.hand.dof_names) != contract.joints:
        raise ValueError(f"{file}: hand.joints = {contract.joints}: allowed are those of the hand {name!r}")
    return cfg


def check(contract: Contract, show: bool, video: Optional[str]) -> None:
    """Raises ValueError or RuntimeError, one line, unless the hands can be shown and filmed as wanted."""
    cfg = configure(contract)
    if video is not None:
        file = Path(video)
        if file.suffix != ".mp4" or file.is_dir() or not file.parent.is_dir():
            raise ValueError(f"--video {video}: allowed is a .mp4 file in a folder that is there")
        check_recording()
    if show:
        check_viewing(cfg.env)


def play(contract: Contract, joints: Array, off: Array, show: bool, video: Optional[str]) -> None:
    """Films and shows the hands: joints [S, 2, D] of the simulation and of the log, and how far those that are reported are
    apart, off [S, A] rad, not a number where nothing was reported."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # leaves no half of a file
    if video is not None:
        with contextlib.closing(SideBySide(contract)) as env:
            film(env, contract, joints, off, Path(video))
    if show:
        with contextlib.closing(SideBySide(contract, "human")) as env:
            watch(env, contract, joints, off)


def film(env: SideBySide, contract: Contract, joints: Array, off: Array, file: Path) -> None:
    """Writes the file, in real time."""
    width, height = env.cfg.env.video_size
    every = stride(env.control_dt)
    renderer = Renderer(env, (width, height))

    def pictures() -> Iterator[Array]:
        for i in range(0, len(joints), every):
            env.put(joints[i])
            told = words(contract, off, i)
            titles = {"simulation": "", "worst joint": told["worst joint"]}, {"hand": "", "time": told["time"]}
            simulated, logged = (renderer.draw(row.numpy(), title) for row, title in zip(coordinates(env), titles))
            yield np.hstack((logged, simulated))

    try:
        write_clip(file, pictures(), (2 * width, height), 1 / (every * env.control_dt))
    finally:
        renderer.close()


def watch(env: SideBySide, contract: Contract, joints: Array, off: Array) -> None:
    """Plays it again and again, from when somebody looks, until the window is closed or Ctrl-C."""
    nothing = torch.zeros(env.action_space.shape or ())
    with contextlib.suppress(KeyboardInterrupt):
        for i in itertools.cycle(range(len(joints))):
            while env.viewer and not (env.viewer.watched() or env.viewer.is_over()):
                env.viewer.draw_still()
            if not env.viewer or env.viewer.is_over():
                break
            env.viewer.words = {**PLACES, **words(contract, off, i)}
            env.put(joints[i])
            env.step(nothing)


def words(contract: Contract, off: Array, i: int) -> Dict[str, str]:
    """Time and the worst joint of a step."""
    names, dt, degrees = contract.targets[contract.base :], contract.control_dt, np.degrees(np.abs(off[i]))
    worst = int(degrees.argmax())
    apart = "no feedback" if math.isnan(degrees[worst]) else f"{names[worst]}, {degrees[worst]:.1f} degrees apart"
    return {"time": f"{i * dt:.2f} of {(len(off) - 1) * dt:.2f} s", "worst joint": apart}
