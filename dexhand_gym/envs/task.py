"""The interface of a task: what it defines and what it may read."""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Tuple, Type

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from dexhand_gym.envs.checks import warn_of_misspelt
from dexhand_gym.envs.config import Config, TaskConfig
from dexhand_gym.envs.hardware import HARDWARE_QUANTITIES
from dexhand_gym.envs.mirror import HAND_MIRRORS
from dexhand_gym.envs.quantities import HAND_QUANTITIES, Quantity
from dexhand_gym.hands.hand import Hand
from dexhand_gym.sim import Scene


class Task(VectorEnv):
    """A task is a subclass of DexHandVecEnv (itself a subclass of this class) that defines

    | member                    | what it says                                                                         |
    |---------------------------|--------------------------------------------------------------------------------------|
    | `config`                  | its TaskConfig: lengths, limits, weights, observation keys, criteria                 |
    | `scene()`                 | what stands in an environment besides the hand                                       |
    | `sample_start()`          | random start: {"hand": action targets [N, T], actor: pose [N, 7], ...}               |
    | `vary()`                  | what differs between episodes, {"box.mass": [N], ...} (sim.base.Variation)           |
    | `edit_spec(spec)`         | changes of MuJoCo's model that no value covers                                       |
    | `rewards(m, cfg)`         | {term: [N]} unweighted                                                               |
    | `successes(m, cfg)`       | {criterion: [N] bool}                                                                |
    | `failures(m, cfg)`        | {criterion: [N] bool}                                                                |
    | `quantities`              | {name: function(measured, cfg)}: observations and whatever rewards and endings read  |
    | `timers`                  | {name: boolean quantity}: seconds that it has held without a break                   |
    | `remembered`              | quantities whose value one control step ago is wanted, as prev_<name>                |
    | `figures`                 | quantities [N] whose value at the end of an episode is told: tests, TensorBoard      |
    | `mirrors`                 | {observation: what a mirror makes of it} (mirror.py), for policies of the other hand |
    | `mastered(statistics)`    | by which a curriculum widens, a share: of the attempts those that succeed            |
    | `physics`                 | the name of its physics, one of PHYSICS, where --physics says no other               |
    | `train_defaults`          | PPO's settings where they differ from its own, {name: value}; subclasses inherit it  |

    Only `rewards` is required. The methods may read

    | attribute                 | content                                                                              |
    |---------------------------|--------------------------------------------------------------------------------------|
    | `cfg`, `task`, `hand`     | Config, its TaskConfig, its Hand                                                     |
    | `num_envs`, `device`      | N, where the tensors live                                                            |
    | `limits`                  | of the action targets: lower, upper, max_change, each [T]                            |
    | `raw`                     | raw quantities by name (quantities.py), views of memory that stays where it is       |
    | `sim`                     | the engine                                                                           |
    | `uniform(low, high, k)`   | random numbers [N, k] of this environment's own generator                            |
    """

    config: ClassVar[Type[TaskConfig]] = TaskConfig
    quantities: Dict[str, Quantity] = {**HAND_QUANTITIES, **HARDWARE_QUANTITIES}
    timers: ClassVar[Dict[str, str]] = {"contact_duration": "contact_binary"}
    remembered: ClassVar[Tuple[str, ...]] = ()
    figures: ClassVar[Tuple[str, ...]] = ()
    mirrors: ClassVar[Dict[str, Any]] = HAND_MIRRORS
    physics: ClassVar[str] = "default"
    train_defaults: ClassVar[Dict[str, Any]] = {}

    cfg: Config
    hand: Hand
    num_envs: int
    device: torch.device
    generator: torch.Generator

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Makes VectorEnv a direct base of every task, since skrl recognises environments by their direct bases."""
        super().__init_subclass__(**kwargs)
        warn_of_misspelt(cls, MEMBERS)
        if VectorEnv not in cls.__bases__:
            cls.__bases__ = (*cls.__bases__, VectorEnv)

    def scene(self) -> Scene:
        """The contents of one environment."""
        return Scene(self.cfg.env.hand_height, spacing=self.cfg.env.spacing)

    def vary(self) -> Dict[str, Tensor]:
        """Values for new episodes, sampled for every environment; see sim.base.Variation."""
        return {}

    def edit_spec(self, spec: Any) -> None:
        """Edits MuJoCo's MjSpec of the scene, for changes that no value covers; MuJoCo's engines, viewers and pictures
        use the result. Its bodies and joints must stay."""

    def sample_start(self) -> Dict[str, Tensor]:
        """Start of an episode, drawn for every environment: {"hand": action targets [N, T], actor: pose [N, 7]}."""
        return {"hand": torch.zeros(self.num_envs, self.hand.num_actions, dtype=torch.float32, device=self.device)}

    @staticmethod
    def rewards(m: Dict[str, Tensor], cfg: Any) -> Dict[str, Tensor]:
        """Unweighted reward terms, each [N]."""
        raise NotImplementedError("the task has no rewards(m, cfg)")

    @staticmethod
    def successes(m: Dict[str, Tensor], cfg: Any) -> Dict[str, Tensor]:
        """Success criteria, each [N] bool."""
        return {}

    @staticmethod
    def failures(m: Dict[str, Tensor], cfg: Any) -> Dict[str, Tensor]:
        """Failure criteria, each [N] bool."""
        return {}

    def mastered(self, statistics: Dict[str, float]) -> float:
        """What RandomizeConfig.curriculum is compared with, in [0, 1], from the newest statistics()."""
        return statistics.get("success_rate", 0.0)

    def uniform(self, low: float, high: float, columns: int) -> Tensor:
        """Random numbers [N, columns] of this environment's own generator."""
        shape, kind = (self.num_envs, columns), {"dtype": torch.float32, "device": self.device}
        unit = torch.rand(shape, generator=self.generator, **kind)
        return low + (high - low) * unit


MEMBERS = [name for name in vars(Task) if not name.startswith("_") and name != "uniform"]


def overrides(task: Task, name: str) -> bool:
    """Whether a task overrides this method."""
    return getattr(type(task), name) is not getattr(Task, name)
