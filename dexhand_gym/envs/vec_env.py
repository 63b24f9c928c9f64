"""N DexHands in one simulator as a Gymnasium vector environment: the loop that every task shares."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Callable, ClassVar, Dict, List, Optional, Tuple, Type

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

import dexhand_gym.envs.actions as stages
from dexhand_gym import rotations
from dexhand_gym.envs.captured import Captured, copies
from dexhand_gym.envs.checks import (
    check_quantities,
    check_scene,
    check_seed,
    check_shape,
    check_start,
    check_table_names,
    warn_of_misspelt,
)
from dexhand_gym.envs.config import Config, TaskConfig
from dexhand_gym.envs.mirror import HAND_MIRRORS
from dexhand_gym.envs.quantities import HAND_QUANTITIES, Measured, Quantity, finite, half_extents
from dexhand_gym.envs.randomize import draw_objects
from dexhand_gym.envs.sensing import Delay, SensorNoise
from dexhand_gym.envs.state import get_state, set_state
from dexhand_gym.envs.terms import Terms, Verdict
from dexhand_gym.fields import check_name, shortened
from dexhand_gym.sim import Scene, View, make_sim
from dexhand_gym.sim.base import draws_itself

log = logging.getLogger(__name__)


class DexHandVecEnv(VectorEnv):
    """Base class of every task. A task gives a config class, five methods and three tables:

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
    | `quantities`              | {name: function(measured, cfg)}: observations and whatever rewards and endings read       |
    | `timers`                  | {name: boolean quantity}: seconds that it has held without a break                   |
    | `remembered`              | quantities whose value one control step ago is wanted, as prev_<name>                |
    | `mirrors`                 | {observation: what a mirror makes of it} (mirror.py), for policies of the other hand |
    | `train_defaults`          | PPO's settings where they differ from its own, {name: value}; subclasses inherit it  |

    Tensors live on the simulator's device. Finished environments restart within the same step (SAME_STEP): `step`
    returns the new episode's first observation, and info holds

    | key                        | content                                                                              |
    |----------------------------|--------------------------------------------------------------------------------------|
    | `final_obs`, `_final_obs`  | [N, O] observation before the restart; [N] bool, the rows that finished              |
    | `episode`, `_episode`      | {"r": return, "l": length} [N] of the finished rows                                  |
    | `success`                  | [N] bool, episodes that ended by success in this step                                |
    | `endings`                  | {criterion, time_out, nonfinite: [N] bool}, what ended them                          |
    | `time_outs`                | [N] bool, equal to truncated (the name rl_games looks for)                           |
    | `critic_obs`               | [N, S] the observation and, behind it, what only a critic may see; in reset's info   |
    |                            | too; only if `critic_observation_keys` names anything                                |
    | `final_critic_obs`         | [N, S] likewise before the restart                                                   |

    An episode ends as `nonfinite` where the action, a stage of it, the physics, a quantity or the reward is not a finite
    number: terminated, reward and final observation zero. All that is returned is finite, and the caller's own memory.
    """

    metadata: Dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["human", "rgb_array"]}
    config: ClassVar[Type[TaskConfig]] = TaskConfig
    quantities: Dict[str, Quantity] = HAND_QUANTITIES
    timers: ClassVar[Dict[str, str]] = {"contact_duration": "contact_binary"}
    remembered: ClassVar[Tuple[str, ...]] = ()
    mirrors: ClassVar[Dict[str, Any]] = HAND_MIRRORS
    train_defaults: ClassVar[Dict[str, Any]] = {}

    def __init__(self, cfg: Config, seed: Optional[int] = None, render_mode: Optional[str] = None):
        """render_mode "rgb_array": render() returns pictures; "human": a window or a page shows what goes on (dexhand_gym.watch).
        Raises ValueError for a mistake in `cfg` (one line), RuntimeError where the engine cannot run or nothing can be
        drawn."""
        if not isinstance(cfg, Config):
            raise ValueError(f"cfg = {shortened(repr(cfg))}: allowed is a Config")
        Config.validate(cfg)  # the rest of a run's is not the environment's business
        seed = check_seed(seed)
        if render_mode is not None:
            check_name("render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.cfg, self.task = cfg, cfg.task
        self.num_envs = cfg.env.num_envs
        self.hand, env = cfg.hand, cfg.env
        scene = dataclasses.replace(check_scene(self.scene()), hand=self.hand, edit_spec=self._own_edit())
        random = np.random.default_rng(seed)
        variation = draw_objects(self.task.randomize, scene.free, self.num_envs, random)
        cameras = self.num_envs if render_mode == "rgb_array" else int(env.record_video)
        view = View(cameras, env.video_size, window=bool(env.render) or render_mode == "human")
        engine = env.backend, env.device
        self.sim = make_sim(scene, self.num_envs, cfg.sim, self.task.decimation, *engine, variation, view)
        self.device = self.sim.device
        self.control_dt = cfg.control_dt
        self.metadata = {**self.metadata, "render_fps": round(1 / self.control_dt)}
        self._init_actions()
        self._init_buffers()
        self._init_raw_quantities(scene)
        self._init_randomization(scene, variation, random)
        self.generator = torch.Generator(device=self.device)
        graphs = cfg.env.cuda_graphs and self.device.type == "cuda"
        self._drive = Captured(self._drive_dofs, graphs, generator=self.generator if self._noise else None)
        self._finish = Captured(self._finish_step, graphs, fuse=cfg.env.compile)
        self._place = Captured(self._place_starts, graphs, generator=self.generator)
        self._observe = Captured(self._observe_starts, graphs, fuse=cfg.env.compile)
        self.generator.seed() if seed is None else self.generator.manual_seed(seed % 2**63)
        self._begin_episodes(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        for name, value in self._start.items():
            if not torch.isfinite(value).all():
                raise ValueError(f"sample_start()'s {name!r} is not finite")
        self._observe()
        self.terms = terms = Terms(self)
        self.reward_weights, self.reward_terms = terms.weights, terms.newest
        """What each row of `reward_terms` [terms and endings, N] counts, and those rows of the newest step, unweighted."""
        self.success_criteria, self.failure_criteria = terms.successes, terms.failures
        """Names of those that end an episode."""
        self._check_quantities()
        self._obs_size, more = (
            sum(self.measured[key][0].numel() for key in keys)
            for keys in (self.task.policy_observation_keys, self.task.critic_observation_keys)
        )
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (self._obs_size,), np.float32)
        self.single_critic_space: Optional[gym.spaces.Box] = None
        """Of a row of info["critic_obs"], if there is that."""
        if more:
            self.single_critic_space = gym.spaces.Box(-np.inf, np.inf, (self._obs_size + more,), np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (self._prev_actions.shape[1],), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.watchers: List[Callable[[Dict[str, Any]], None]] = []
        """Called with info after every step."""
        self.viewer: Any = None
        self._renderer: Any = None
        if render_mode == "human":
            self.show()
            print(f"watch: {self.viewer.where}", flush=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Makes VectorEnv a direct base of every task, since skrl recognises environments by their direct bases."""
        super().__init_subclass__(**kwargs)
        warn_of_misspelt(cls)
        if VectorEnv not in cls.__bases__:
            cls.__bases__ = (*cls.__bases__, VectorEnv)

    # What a task says -------------------------------------------------------------------------------------------------

    def scene(self) -> Scene:
        """What stands in one environment."""
        return Scene(self.cfg.env.hand_height, spacing=self.cfg.env.spacing)

    def vary(self) -> Dict[str, Tensor]:
        """Values that every new episode is to have, drawn for every environment; see sim.base.Variation."""
        return {}

    def edit_spec(self, spec: Any) -> None:
        """Changes MuJoCo's MjSpec of the scene, for what no value covers; engines, viewers and pictures obey it. Its bodies
        and joints must stay."""

    def _own_edit(self) -> Optional[Callable[[Any], None]]:
        return None if type(self).edit_spec is DexHandVecEnv.edit_spec else self.edit_spec

    def sample_start(self) -> Dict[str, Tensor]:
        """Start of an episode, drawn for every environment: {"hand": action targets [N, T], actor: pose [N, 7]}."""
        return {"hand": torch.zeros_like(self._targets)}

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

    def uniform(self, low: float, high: float, columns: int) -> Tensor:
        """Random numbers [N, columns] of this environment's own generator."""
        shape, kind = (self.num_envs, columns), {"dtype": torch.float32, "device": self.device}
        unit = torch.rand(shape, generator=self.generator, **kind)
        return low + (high - low) * unit

    # Construction -----------------------------------------------------------------------------------------------------

    def _init_actions(self) -> None:
        task, dt = self.task, self.control_dt
        hand, base = self.hand, self.hand.num_base
        speeds = (task.max_linear_velocity, task.max_angular_velocity, task.max_finger_velocity)
        counts = (hand.num_slides, base - hand.num_slides, hand.num_actions - base)
        most = [speed * dt for speed, count in zip(speeds, counts) for _ in range(count)]
        table = self._constant([hand.action_lower, hand.action_upper, most])
        self._limits = stages.Limits(*table)
        self._controlled = slice(
            0 if task.policy_controls_base else base, hand.num_actions if task.policy_controls_fingers else base
        )
        self._policy_limits = stages.Limits(*table[:, self._controlled])
        # Every dof has one action or none (scale 0), so that a gather says it all. A product with the matrix would wake
        # BLAS threads, whose waiting takes cores from the physics. NumPy: a maximum in torch starts threads, after which
        # the process cannot be forked.
        coupling = np.array(hand.coupling)
        scale, action = self._constant(coupling.max(1)), torch.from_numpy(coupling.argmax(1)).to(self.device)
        self.pre_action_rule: Callable[[Dict[str, Tensor]], Tensor] = lambda m: m["start_hand"]
        self.action_rule = getattr(stages, task.control_mode)
        self.post_action_filters: List[Callable] = [stages.clamp_velocity, stages.clamp_position]
        self.coupling: Callable[[Tensor], Tensor] = lambda targets: targets.index_select(1, action) * scale

    def _palm_mount(self, scene: Scene) -> Tensor:
        mount, turn = self._constant(self.hand.palm_mount), self._constant(scene.hand_quat)
        return mount if turn[3] == 1.0 else rotations.multiply(turn, mount)

    def _constant(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def _init_buffers(self) -> None:
        """All that outlives a step, one row per environment, written in place."""

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(self.num_envs, *shape, dtype=dtype, device=self.device)

        targets, dofs = self.hand.num_actions, len(self.hand.dof_names)
        self._start: Dict[str, Tensor] = {
            "hand": zeros(targets),
            **{name: zeros(7) for name in self.sim.actor_names[1:]},
        }
        self._targets, self._rule_targets = zeros(targets), zeros(targets)
        self._dof_targets = zeros(dofs)
        self._prev_actions = zeros(len(self._policy_limits.lower))
        self._refused = zeros(dtype=torch.bool)  # where the newest action, or what a stage made of it, is not finite
        self._timers: Dict[str, Tensor] = {}
        self._previous: Dict[str, Tensor] = {}
        self._episode_step = zeros(dtype=torch.int64)
        self._episode_return = zeros()
        self._beginning = zeros(dtype=torch.bool)
        self.consecutive_successes = zeros(dtype=torch.int64)

    def _init_raw_quantities(self, scene: Scene) -> None:
        """Views of memory that stays where it is; timers and remembered quantities join them when first computed."""
        sim = self.sim
        self._raw: Dict[str, Tensor] = {
            "dof_pos": sim.dof_state[..., 0],
            "dof_vel": sim.dof_state[..., 1],
            "dof_lower": self._constant(self.hand.dof_lower),
            "dof_upper": self._constant(self.hand.dof_upper),
            "palm_mount": self._palm_mount(scene),
            "dof_targets": self._dof_targets,
            "targets": self._targets,
            "rule_targets": self._rule_targets,
            "prev_actions": self._prev_actions,
            "bodies": sim.rigid_body_state,
            "body_forces": sim.net_contact_force,
            "episode_step": self._episode_step,
            **{name: sim.root_state[:, i] for i, name in enumerate(sim.actor_names) if i},
            **{f"start_{name}": value for name, value in self._start.items()},
        }
        sizes = [f"{thing.name}_size" for thing in scene.free]
        known = [*self._raw, *sizes, *self.quantities, *self.timers, *(f"prev_{name}" for name in self.remembered)]
        check_table_names(self, known)
        names = dict.fromkeys((*self.quantities, *self.timers, *known))
        for field in ("policy_observation_keys", "critic_observation_keys"):
            for key in getattr(self.task, field):
                check_name(f"task.{field}", key, names)

    def _init_randomization(self, scene: Scene, variation: Dict[str, Tensor], random: np.random.Generator) -> None:
        """Objects' sizes as quantities; delay and noise, None where there is none."""
        self._own: Dict[str, Tensor] = {}
        for thing in scene.free:
            size = variation.get(f"{thing.name}.size", torch.full((self.num_envs,), max(thing.extents)))
            size = size.to(self.device, torch.float32).unsqueeze(1)
            self._raw[f"{thing.name}_size"] = size
            if variation or type(self).vary is not DexHandVecEnv.vary:
                self._own[f"{thing.name}_size"] = size
        cfg = self.task.randomize
        self.differ = cfg.per_environment
        """Whether environments differ in what they keep from episode to episode."""
        low, high = cfg.action_delay
        steps = random.integers(low, high, self.num_envs, endpoint=True)
        self._delay = Delay(steps, self._dof_targets) if high else None
        noise = SensorNoise(cfg, self._raw, self.sim.actor_names[1:])
        self._noise = noise if noise.unit else None
        if self._delay:
            self._own.update({"delay_steps": self._delay.steps, "delay_waiting": self._delay.waiting})
        if self._noise:
            self._own.update({f"noise_{name}": unit for name, unit in self._noise.unit.items()})

    def _check_quantities(self) -> None:
        check_quantities(self.measured, [*self.quantities, *self.timers], self.num_envs, self.device)
        for key in (*self.task.policy_observation_keys, *self.task.critic_observation_keys):
            if key not in self.observable():
                raise ValueError(f"observation {key!r}: allowed is a quantity with a row for each environment")

    def observable(self) -> List[str]:
        """Names of the quantities that can be observed: those with a row for each environment."""
        return [name for name in {**self.quantities, **self._raw} if self.measured[name].shape[:1] == (self.num_envs,)]

    # The loop ---------------------------------------------------------------------------------------------------------

    def reset(self, *, seed: Optional[int] = None, options: Optional[Dict[str, Any]] = None) -> Tuple[Tensor, Dict]:
        """New episodes, in every environment or in those of options["reset_mask"] ([N] bool, torch or NumPy)."""
        self._check_open()
        seed = check_seed(seed)
        if seed is not None:
            super().reset(seed=seed)
            self.generator.manual_seed(seed % 2**63)
        mask = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        if options is not None and not isinstance(options, dict):
            raise ValueError(f"options = {shortened(repr(options))}: allowed is a dict, such as {{'reset_mask': mask}}")
        for name, given in (options or {}).items():
            check_name("options", name, ["reset_mask"])
            mask = torch.as_tensor(given if isinstance(given, Tensor) else np.array(given), device=self.device)
            if mask.shape != (self.num_envs,) or mask.dtype != torch.bool:
                raise ValueError(f"reset_mask: {tuple(mask.shape)} {mask.dtype}, allowed is ({self.num_envs},) bool")
        self._begin_episodes(mask)
        return self._split(self._observe())

    def step(self, actions: Any) -> Tuple[Tensor, Tensor, Tensor, Tensor, Dict[str, Any]]:
        """One control step. actions [N, A] in [-1, 1] (clamped; any array-like) -> obs [N, O], reward [N], terminated [N]
        bool, truncated [N] bool, info (class docstring)."""
        self._check_open()
        self._prev_actions.copy_(stages.as_tensor(actions, self._prev_actions.shape))
        self._drive.again_if_changed(self.pre_action_rule, self.action_rule, *self.post_action_filters, self.coupling)
        self._drive()
        self.sim.step(self._dof_targets)
        self.terms.steps += 1
        rows, reward, terminated, truncated, episode_return, episode_length, success, endings = self._finish()
        final_obs, final_critic_obs = self._split(rows, "final_critic_obs")
        done = terminated | truncated
        if self._drive.on_gpu or done.any():  # asking a GPU would stall it
            self._begin_episodes(done)
            rows = self._observe()
        else:
            rows = copies(rows)
        obs, critic_obs = self._split(rows)
        info = {
            **critic_obs,
            **final_critic_obs,
            "final_obs": final_obs,
            "_final_obs": done,
            "episode": {"r": episode_return, "l": episode_length},
            "_episode": done.clone(),
            "success": success,
            "endings": dict(zip(self.terms.endings, endings)),
            "time_outs": truncated.clone(),
        }
        for watch in tuple(self.watchers):  # one that fails takes itself out
            watch(info)
        return obs, reward, terminated, truncated, info

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the environment is closed: make another one")

    def _drive_dofs(self) -> None:
        """The four stages: the newest action to dof targets. The drives keep theirs where one is not finite: an engine may
        take such a target for zero, without a word."""
        given = self._prev_actions.sum(1)
        self._prev_actions.nan_to_num_(0.0).clamp_(-1.0, 1.0)
        shape, columns = self._targets.shape, self._controlled
        baseline = check_shape("pre_action_rule", self.pre_action_rule(self.measured), shape)
        targets = self.action_rule(
            self._prev_actions, self._targets[:, columns], baseline[:, columns], self._policy_limits
        )
        check_shape("action_rule", targets, self._prev_actions.shape)
        if targets.shape != shape:
            controlled, targets = targets, baseline.clone()
            targets[:, columns] = controlled
        for post_filter in self.post_action_filters:
            targets = check_shape(post_filter, post_filter(targets, self._targets, self._limits), shape)
        dof_targets = check_shape("coupling", self.coupling(targets), self._dof_targets.shape)
        drivable = finite(given, baseline, targets, dof_targets)
        torch.logical_not(drivable, out=self._refused)
        self._rule_targets.copy_(baseline)
        self._targets.copy_(targets)
        dof_targets = torch.where(drivable.unsqueeze(1), dof_targets, self._dof_targets)
        self._dof_targets.copy_(self._delay(dof_targets) if self._delay else dof_targets)
        if self._noise:
            self._noise.draw(self.generator)

    def _finish_step(self) -> Tuple[Tensor, ...]:
        """What the step came to: observation [N, S], reward, terminated, truncated, return and length so far, success, endings
        [J, N]."""
        self._episode_step += 1
        m = self._measure(self.control_dt)
        rows = self._observation(m)
        verdict = self._judge(m, rows)
        self._blank(rows, verdict.bad)
        self._remember(m)
        ended = verdict.terminated, verdict.truncated, self._episode_return, self._episode_step
        return (rows, verdict.reward, *ended, verdict.success, verdict.endings)

    def _begin_episodes(self, mask: Tensor) -> None:
        """New episodes where `mask` says so."""
        self._beginning.copy_(mask)
        self._place()
        self.sim.write_state(self._beginning)

    def _observe_starts(self) -> Tensor:
        """The observation [N, S] anew, after episodes have begun."""
        m = self._measure(0.0)
        self._remember(m)
        rows = self._observation(m)
        self._blank(rows, ~finite(rows))  # such an episode ends in the next step
        return rows

    @property
    def object_halves(self) -> Tensor:
        """Half extents of what moves besides the hand [N, objects, 3], m."""
        halves = [half_extents(self._raw[f"{thing.name}_size"], thing) for thing in self.sim.scene.free]
        return torch.stack(halves, 1) if halves else self._episode_return.new_zeros(self.num_envs, 0, 3)

    @property
    def measured(self) -> Measured:
        """The quantities of the newest instant, by name (quantities.py)."""
        return Measured(self._raw, self.quantities, self.cfg)

    def _measure(self, elapsed: float) -> Measured:
        """Quantities of this instant, `elapsed` seconds after the last ones (0 after a restart), timers moved on."""
        m = self.measured
        for name, condition in self.timers.items():
            if name not in self._raw:
                self._raw[name] = m[name] = self._timers[name] = torch.zeros_like(m[condition], dtype=torch.float32)
            self._timers[name].add_(elapsed).masked_fill_(m[condition] <= 0, 0.0)
        return m

    def _judge(self, m: Measured, rows: Tensor) -> Verdict:
        """What this step comes to. All that it was computed from counts, and overrules it; a reward term that is not finite
        shows in the return."""
        verdict = self.terms.judge(m, self._episode_step >= self.task.episode_length)
        total = self._episode_return + verdict.reward
        good = finite(total, *self._looked_at(m, rows)) & ~(self.sim.nonfinite | self._refused)
        verdict = verdict.where(good)
        self._episode_return += verdict.reward
        done, consecutive = verdict.terminated | verdict.truncated, self.consecutive_successes
        consecutive.copy_(torch.where(done & ~verdict.success, 0, consecutive + verdict.success))
        self.terms.count(verdict, done, self._episode_step)
        return verdict

    def _blank(self, rows: Tensor, bad: Tensor) -> None:
        """Zeros in the rows [N, S] where `bad` [N] says so."""
        if self._drive.on_gpu or bad.any():  # asking a GPU would stall it
            rows.masked_fill_(bad.unsqueeze(1), 0.0)

    def _looked_at(self, m: Measured, rows: Tensor) -> List[Tensor]:
        """What rewards and criteria were made from and what is observed, each [N, ...], but for the engine's states, which
        it looks at itself."""
        sim, task = self.sim, self.task
        shown = (*task.policy_observation_keys, *task.critic_observation_keys)
        states = (sim.dof_state, sim.root_state, sim.rigid_body_state, sim.net_contact_force)
        hidden = [m[name] for name in m if name in self.quantities and name not in shown]
        hidden = [x for x in hidden if x.is_floating_point() and x.dim() and len(x) == self.num_envs]
        hidden = [x for x in hidden if not any(x._base is state for state in states)]
        return [rows, sim.net_contact_force, *hidden]

    def _place_starts(self) -> None:
        """Writes random starts of the environments in `_beginning` into the tensors; write_state() passes them on."""
        mask = self._beginning
        column = mask.unsqueeze(1)
        if type(self).vary is not DexHandVecEnv.vary:
            self._vary(mask)
        start = self.sample_start()
        check_start(start, self._start)
        for name, value in start.items():
            self._start[name].copy_(torch.where(column, value, self._start[name]))
        for buffer in (self._targets, self._rule_targets):
            buffer.copy_(torch.where(column, self._start["hand"], buffer))
        dof_targets = torch.nan_to_num(self.coupling(self._targets), 0.0, 0.0, 0.0)
        self._dof_targets.copy_(torch.where(column, dof_targets, self._dof_targets))
        if self._delay:
            self._delay.restart(mask, self._dof_targets)
        if self._noise:
            self._noise.draw(self.generator, mask)
        for buffer in (self._prev_actions, *self._timers.values(), self._episode_step, self._episode_return):
            buffer.masked_fill_(mask.view(-1, *[1] * (buffer.dim() - 1)), 0)
        dofs = torch.stack((self._dof_targets, torch.zeros_like(self._dof_targets)), -1)
        self.sim.dof_state.copy_(torch.where(mask.view(-1, 1, 1), dofs, self.sim.dof_state))
        for i, name in enumerate(self.sim.actor_names[1:], 1):
            at_rest = torch.nn.functional.pad(self._start[name], (0, 6))
            self.sim.root_state[:, i] = torch.where(column, at_rest, self.sim.root_state[:, i])

    def _vary(self, mask: Tensor) -> None:
        """Gives the environments in `mask` what vary() says."""
        variation = self.vary()
        self.sim.vary(variation, mask)
        for name, values in variation.items():
            thing, _, what = name.partition(".")
            if what == "size":
                size = self._raw[f"{thing}_size"]
                size.copy_(torch.where(mask.unsqueeze(1), values.to(size).view(-1, 1), size))

    def _remember(self, m: Measured) -> None:
        for name in self.remembered:
            if name not in self._previous:
                self._raw[f"prev_{name}"] = m[f"prev_{name}"] = self._previous[name] = m[name].clone()
            self._previous[name].copy_(m[name])

    # What a user asks for ---------------------------------------------------------------------------------------------

    def _observation(self, m: Measured) -> Tensor:
        """The policy's, and behind it what only the critic may see [N, S]."""
        sensed = self._noise.sense(m, self._raw, self) if self._noise else m
        columns = [sensed[key] for key in self.task.policy_observation_keys]
        columns += [m[key] for key in self.task.critic_observation_keys]
        return torch.cat([column.reshape(self.num_envs, -1) for column in columns], 1).float()

    def _split(self, rows: Tensor, name: str = "critic_obs") -> Tuple[Tensor, Dict[str, Tensor]]:
        """What the policy gets, and the entry of info for the critic."""
        if not self.task.critic_observation_keys:
            return rows, {}
        return copies(rows[:, : self._obs_size]), {name: rows}

    def observations(self) -> Dict[str, Tensor]:
        """Every quantity of the newest instant by name, each [N, width]: what policy and critic may be given to see."""
        m = self.measured
        return {name: m[name].reshape(self.num_envs, -1).clone() for name in self.observable()}

    def memory(self) -> Dict[str, Tensor]:
        """All that outlives a step, as views [N, ...] by name. A task that remembers more adds it here."""
        return {
            **{f"sim.{name}": value for name, value in self.sim.memory().items()},
            **{f"start_{name}": value for name, value in self._start.items()},
            **{f"timer_{name}": value for name, value in self._timers.items()},
            **{f"prev_{name}": value for name, value in self._previous.items()},
            "targets": self._targets,
            "rule_targets": self._rule_targets,
            "dof_targets": self._dof_targets,
            "prev_actions": self._prev_actions,
            "episode_step": self._episode_step,
            "episode_return": self._episode_return,
            "consecutive_successes": self.consecutive_successes,
            "sums": self.terms.sums,
            **self._own,
        }

    def get_state(self) -> Dict[str, Any]:
        """A copy of memory(), the random numbers' state and the task's name; for set_state() and torch.save."""
        return get_state(self)

    def set_state(self, state: Dict[str, Any]) -> None:
        """Goes on where get_state() was called, on the CPU to the bit. Raises ValueError, one line, and changes nothing if
        the state is that of another task, hand or number of environments."""
        set_state(self, state)

    def statistics(self) -> Dict[str, float]:
        """Means since the last call: what the reward is made of, raw and weighted (per step; the weighted ones sum to it),
        endings (share of finished episodes), success_rate (if the task has successes), episode_length, episodes, nonfinite
        and overflow (counts). Costs one transfer from the device."""
        return self.terms.statistics(self.sim.take_overflow(), self.num_envs)

    def show(self, speed: str = "1x") -> None:
        """From now on a window or a page shows what goes on, `viewer`. Raises RuntimeError where there can be neither,
        ValueError if the page cannot be where it is to be."""
        from dexhand_gym.watch import open_viewer

        self.viewer = open_viewer(self, speed)

    def hurry(self) -> None:
        """Lets go on what a viewer has paused or slowed down: the program wants to end."""
        if self.viewer is not None:
            self.viewer.hurry()

    def render(self) -> Optional[Tuple[np.ndarray, ...]]:
        """With render_mode "rgb_array" a picture [height, width, 3] uint8 of every environment, else None."""
        self._check_open()
        if self.render_mode != "rgb_array":
            return None
        if draws_itself(self.sim):
            return tuple(self.sim.pictures())  # pyright: ignore[reportAttributeAccessIssue]
        from dexhand_gym.watch.render import Renderer, coordinates

        if self._renderer is None:  # not before it is needed: OpenGL does not survive a fork
            self._renderer = Renderer(self, self.cfg.env.video_size)
        return tuple(self._renderer.draw(row) for row in coordinates(self).cpu().numpy())

    def close_extras(self, **kwargs: Any) -> None:
        for name in ("viewer", "_renderer", "sim"):
            if getattr(self, name, None) is not None:  # else there was none to be had
                getattr(self, name).close()
