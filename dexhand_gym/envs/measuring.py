"""The quantities that an environment measures, and the observations made of them."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence

import torch
from torch import Tensor

from dexhand_gym import rotations
from dexhand_gym.envs.actions import Stages
from dexhand_gym.envs.checks import check_quantities, check_table_names, check_tensor, unchanged
from dexhand_gym.envs.history import History
from dexhand_gym.envs.quantities import Measured
from dexhand_gym.envs.sensing import Late, Sensors
from dexhand_gym.envs.task import Task
from dexhand_gym.fields import check_name
from dexhand_gym.objects import AnyOf, Object
from dexhand_gym.sim import Scene
from dexhand_gym.sim.base import Simulator, Variation, overwrite


def raw_quantities(
    sim: Simulator,
    scene: Scene,
    stages: Stages,
    start: Dict[str, Tensor],
    episode_step: Tensor,
    variation: Variation,
    width: Optional[Tensor] = None,
) -> Dict[str, Tensor]:
    """The raw quantities of quantities.py's table, in memory that stays in place."""

    def constant(values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=sim.device)

    mount, turn = constant(scene.hand.palm_mount), constant(scene.hand_quat)
    chosen, sizes = {}, {}
    for thing in scene.free:
        sizes[thing.name] = torch.full((len(episode_step),), max(thing.extents))
        if isinstance(thing, AnyOf):
            chosen[thing.name] = variation.get(f"{thing.name}.which", torch.zeros_like(episode_step)).to(episode_step)
            largest = constant([max(choice.extents) for choice in thing.of])
            sizes[thing.name] = largest[chosen[thing.name]]
        sizes[thing.name] = variation.get(f"{thing.name}.size", sizes[thing.name])
    return {
        "dof_pos": sim.dof_state[..., 0],
        "dof_vel": sim.dof_state[..., 1],
        "dof_lower": constant(scene.hand.dof_lower),
        "dof_upper": constant(scene.hand.dof_upper),
        "palm_mount": mount if turn[3] == 1.0 else rotations.multiply(turn, mount),
        "dof_targets": stages.dof_targets,
        "targets": stages.targets,
        "rule_targets": stages.baseline,
        "last_actions": stages.newest,
        "prev_actions": stages.newest,
        "bodies": sim.rigid_body_state,
        "body_forces": sim.net_contact_force,
        "episode_step": episode_step,
        **{name: sim.root_state[:, i] for i, name in enumerate(sim.actor_names) if i},
        **{f"start_{name}": value for name, value in start.items()},
        **{f"{name}_size": size.to(sim.device, torch.float32).unsqueeze(1) for name, size in sizes.items()},
        **{f"{name}_which": which for name, which in chosen.items()},
        **({"curriculum_width": width} if width is not None else {}),
    }


class Instruments:
    """Measures for a task: the raw quantities `raw`, timers and remembered quantities; exactly and at once where there
    are no `sensors` and nothing is `late`."""

    def __init__(self, task: Task, raw: Dict[str, Tensor], sensors: Optional[Sensors], late: Optional[Late]):
        """Raises ValueError, one line, if the task or its config names an unknown quantity."""
        self.task, self.raw, self.sensors, self.late = task, raw, sensors, late
        ago = task.cfg.task.observation_history
        self.history = History(ago) if ago else None
        self.timers: Dict[str, Tensor] = {}
        self.previous: Dict[str, Tensor] = {}
        self.newest: Dict[str, Tensor] = {}
        """What becomes `previous` when the next step is measured: until then `measured` has this step's values."""
        check_table_names(task, raw)
        known = [*raw, *task.quantities, *task.timers, *(f"prev_{name}" for name in task.remembered)]
        self.policy_keys, self.critic_keys = (
            task.cfg.task.policy_observation_keys,
            task.cfg.task.critic_observation_keys,
        )
        names = dict.fromkeys((*task.quantities, *task.timers, *known))
        for field, keys in (("policy", self.policy_keys), ("critic", self.critic_keys)):
            for key in keys:
                check_name(f"task.{field}_observation_keys", key, names)

    @property
    def measured(self) -> Measured:
        """The quantities of the newest instant, by name."""
        return Measured(self.raw, self.task.quantities, self.task.cfg)

    def measure(self, elapsed: float) -> Measured:
        """The quantities of this instant, `elapsed` seconds after the last one (0 after a restart); advances the
        timers."""
        if elapsed:
            for name, value in self.newest.items():
                self.previous[name].copy_(value)
        m = self.measured
        for name, condition in self.task.timers.items():
            if name not in self.raw:
                self.raw[name] = m[name] = self.timers[name] = torch.zeros_like(m[condition], dtype=torch.float32)
            self.timers[name].add_(elapsed).masked_fill_(m[condition] <= 0, 0.0)
        return m

    def remember(self, m: Measured, begun: Optional[Tensor] = None) -> None:
        """Stores this instant's values of the task's `remembered` quantities, which the next step has as prev_<name>. With
        `begun` [N] only those of episodes that begin, which have them at once."""
        for name in self.task.remembered:
            if name not in self.previous:
                check_quantities(m, [name], self.task.num_envs, self.task.device)
                self.raw[f"prev_{name}"] = m[f"prev_{name}"] = self.previous[name] = m[name].clone()
                self.newest[name] = m[name].clone()
            overwrite(self.newest[name], m[name], begun)
            if begun is not None:
                overwrite(self.previous[name], m[name], begun)

    def try_out(self, ghosts: Sequence[Object]) -> None:
        """Computes every quantity. Raises ValueError, one line, for one that is none, or no pose for its ghost, and for
        one that changes another."""
        self.remember(self.measure(0.0))
        m, task = self.measured, self.task
        try:
            with unchanged("a quantity", self.raw):
                check_quantities(m, task.quantities, task.num_envs, task.device)
        except ValueError:
            for name in task.quantities:  # each by itself, which takes seconds with thousands of environments
                with unchanged(f"quantity {name!r}, or one that it reads,", self.raw):
                    check_quantities(self.measured, [name], task.num_envs, task.device)
            raise
        for key in (*self.policy_keys, *self.critic_keys):
            if key not in self.observable():
                raise ValueError(f"observation {key!r}: allowed is a quantity with a row for each environment")
        for ghost in ghosts:
            what = f"quantity {ghost.name!r} of a ghost in scene()"
            check_tensor(what, m[ghost.name], (task.num_envs, 7), (torch.float32,), task.device)

    def observe(self, m: Measured, begun: Optional[Tensor] = None) -> Tensor:
        """The observation [N, S]: the policy's columns, followed by those that only the critic may see. `begun` [N]:
        nothing has happened but that these episodes have begun."""
        sensed = self.sensors.sense(m, self.raw, self.task) if self.sensors else m
        seen, more = (
            [source[key].reshape(self.task.num_envs, -1).float() for key in keys]
            for source, keys in ((sensed, self.policy_keys), (m, self.critic_keys))
        )
        if self.late:
            seen = [self.late(seen, self.policy_keys, begun)]
        if self.history:
            seen = [self.history(torch.cat(seen, 1), begun)]
        return torch.cat(seen + more, 1)

    def widths(self) -> List[int]:
        """Widths of an observation's two parts, the policy's and the critic's."""
        m = self.measured
        seen, more = (sum(m[key][0].numel() for key in keys) for keys in (self.policy_keys, self.critic_keys))
        return [seen * (1 + len(self.task.cfg.task.observation_history)), more]

    def memory(self) -> Dict[str, Tensor]:
        """The state that persists between steps, by name."""
        return {
            **{f"timer_{name}": value for name, value in self.timers.items()},
            **{f"prev_{name}": value for name, value in self.previous.items()},
            **{f"next_prev_{name}": value for name, value in self.newest.items()},
            **(self.late.memory() if self.late else {}),
            **(self.history.memory() if self.history else {}),
        }

    def observable(self) -> List[str]:
        """Names of the quantities that can be observed: those with a row for each environment."""
        m = self.measured
        return [name for name in {**self.task.quantities, **self.raw} if m[name].shape[:1] == (self.task.num_envs,)]

    def hidden(self, m: Measured, states: List[Tensor]) -> List[Tensor]:
        """The computed quantities that are not observed, each [N, ...] of floats, except views of `states`."""
        shown = (*self.policy_keys, *self.critic_keys)
        values = [m[name] for name in m if name in self.task.quantities and name not in shown]
        values = [x for x in values if x.is_floating_point() and x.dim() and len(x) == self.task.num_envs]
        return [x for x in values if not any(x._base is state for state in states)]
