"""A policy that imitates another one, which sees more or other things: DAgger (Ross, Gordon and Bagnell, A Reduction of
Imitation Learning and Structured Prediction to No-Regret Online Learning, 2011).

    python train_ppo.py --task CubeRotation --task.observe touch --train.teacher latest

The student acts, from the first step on, and learns what its teacher would have done where it got to. All else is PPO's:
rollouts, the critic (which sees what the teacher sees, and learns the student's returns, so that PPO can go on from
there), schedules, checkpoints. Only the policy's loss is another: the squared difference from the teacher's actions.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from dexhand_gym.settings import elements, flatten

from . import checkpoint as checkpoints
from . import strict_yaml, workspace
from .ppo import Agent, Batch, Moments, PPOConfig, load_agent, moved, value_loss

SAME = ("task_name", "env.hand", "task.control_mode", "task.policy_controls_base", "task.policy_controls_fingers")
SAME += ("task.max_linear_velocity", "task.max_angular_velocity", "task.max_finger_velocity", "task.wrist_range")
SAME += ("sim.dt", "task.decimation", "task.axis", "task.goals")
"""Settings in which teacher and student agree: what an action does, and what is wanted."""
NOT_LEARNED_BY = ("entropy_coef", "schedule_entropy", "bounds_loss_coef", "normalize_advantage")
"""Fields of PPOConfig that say nothing to a student (e_clip does: its critic clips by it)."""
ENTROPY = 0.5 + 0.5 * math.log(2 * math.pi)
"""Of a normal distribution with deviation 1."""
SIGMA = -2.0
"""Logarithm of the deviation with which a student explores, where nothing else is said."""


def what_it_sees(theirs: dict[str, Any], ours: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """The names that a teacher observes; `theirs` are the settings that its run has written, `ours` all of this one,
    `usual` the task's defaults, which stand for what an older run does not say. Raises ValueError, one line, where it
    cannot teach this task."""
    if " ".join(theirs.get("task.policy_observation_keys", [])) in ("", "()", "[]", "None"):
        raise ValueError("nothing says what it sees, allowed is a policy in the folder of its run")
    for name in SAME:
        there, here = (" ".join(settings.get(name, usual.get(name, []))) for settings in (theirs, ours))
        if there != here:
            raise ValueError(f"its {name} is {there}, here {here}")
    if " ".join(theirs.get("task.observation_history", [])) not in ("", "()", "[]"):
        raise ValueError("it has an observation_history, allowed is one without")
    return theirs["task.policy_observation_keys"]


def load_teacher(path: str | Path, action_space: Any, device: torch.device) -> Agent:
    """The policy in a checkpoint. Raises CheckpointError, one line."""
    saved = checkpoints.load(path)
    cfg = PPOConfig(**checkpoints.network(saved))
    if not (width := checkpoints.architecture(saved["model"])["observations"]):
        raise checkpoints.CheckpointError(f"train.teacher = {str(path)!r}: it holds no policy")
    everything = Box(-np.inf, np.inf, (width,), np.float32)
    with torch.random.fork_rng(devices=[]):  # a training that goes on draws what it would have drawn
        teacher = Agent(everything, action_space, cfg).to(device)
    load_agent(path, teacher, cfg)
    return teacher.requires_grad_(False)


def imitation(path: str | Path, env: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """The loss of a student in `env`, whose critic's rows go on, behind the policy's, with what the teacher sees. To be
    used in the place of minibatch_loss. Raises CheckpointError or ValueError, one line."""
    teacher = load_teacher(path, env.single_action_space, env.device)
    theirs = flatten(strict_yaml.read(workspace.run_of(Path(path)) / "config.yaml", "config", words=True))
    seen = elements(theirs["task.policy_observation_keys"])
    first, width = env.single_observation_space.shape[0], sum(env.measured[name][0].numel() for name in seen)
    if teacher.obs_size != width:
        raise ValueError(
            f"train.teacher = {str(path)!r}: it sees {teacher.obs_size} numbers, its task.policy_observation_keys are {width}"
        )

    def imitation_loss(
        agent: Agent, batch: Batch, moments: Moments | None, _: Tensor, cfg: PPOConfig
    ) -> tuple[Tensor, Tensor]:
        """The loss of the M rows of `batch`, and LOSSES as a tensor, of which a_loss is the mean squared difference of an
        action."""
        if moments is not None:
            agent.update_statistics(*moments)
        mu, logstd, value = agent(batch.obs)
        with torch.no_grad():
            wanted = teacher.act_deterministic(batch.obs[:, first : first + teacher.obs_size]).clamp(-1.0, 1.0)
        a_loss = (mu - wanted).square().mean()
        c_loss = value_loss(value, batch, cfg)
        entropy, zero = (ENTROPY + logstd).sum(-1).mean(), torch.zeros_like(a_loss)
        losses = torch.stack((a_loss, c_loss, entropy, zero, moved(batch, mu, logstd))).detach()
        return a_loss + 0.5 * cfg.critic_coef * c_loss, losses

    return imitation_loss
