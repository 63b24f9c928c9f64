"""N DexHands in one simulator as a Gymnasium vector environment: the loop that every task shares."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Dict, List, Optional, Tuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from dexhand_gym.envs.actions import Stage, Stages, as_tensor
from dexhand_gym.envs.captured import Captured, Fused, copies
from dexhand_gym.envs.checks import (
    check_class,
    check_reset,
    check_scene,
    check_seed,
    check_start,
    check_started,
    check_training,
    check_variation,
    share_mastered,
)
from dexhand_gym.envs.commands import OF_COMMANDS, Commands
from dexhand_gym.envs.config import Config
from dexhand_gym.envs.measuring import Instruments, raw_quantities
from dexhand_gym.envs.parts import of_parts
from dexhand_gym.envs.quantities import RAW, Measured, finite, half_extents
from dexhand_gym.envs.randomize import Physics, Pushes, check_engine, choices_for_life, once, randomizable
from dexhand_gym.envs.randomize_config import WIDENING
from dexhand_gym.envs.redraw import Redraw
from dexhand_gym.envs.sensing import OF_SENSORS, Late, Sensors
from dexhand_gym.envs.state import get_state, set_state
from dexhand_gym.envs.task import Task, overrides
from dexhand_gym.envs.terms import Terms, Verdict
from dexhand_gym.fields import check_name, shortened
from dexhand_gym.sim import Scene, View, choose_engine, make_sim
from dexhand_gym.sim.base import draws_itself


class DexHandVecEnv(Task):
    """Base class of every task; what a task defines is in the table of `Task` (task.py).

    Tensors live on the simulator's device. Finished environments restart within the same step (SAME_STEP): `step`
    returns the new episode's first observation, and info holds

    | key                        | content                                                                              |
    |----------------------------|--------------------------------------------------------------------------------------|
    | `final_obs`, `_final_obs`  | [N, O] observation before the restart; [N] bool, the rows that finished              |
    | `episode`, `_episode`      | {"r": return, "l": length, and the task's figures} [N] of the finished rows          |
    | `success`                  | [N] bool, episodes that ended by success in this step                                |
    | `endings`                  | {criterion, time_out, nonfinite: [N] bool}, what ended them                          |
    | `time_outs`                | [N] bool, equal to truncated (the name rl_games looks for)                           |
    | `critic_obs`               | [N, S] with `critic_observation_keys`: obs, then what a critic sees; after reset too |
    | `final_critic_obs`         | [N, S] likewise before the restart                                                   |

    An episode ends as `nonfinite` where the action, a stage of it, the physics, a quantity or the reward is not a
    finite number: it is terminated, with reward and final observation zero. All returned tensors are finite copies.
    """

    metadata: Dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["human", "rgb_array"]}
    pre_action_rule, action_rule, post_action_filters, coupling = Stage(), Stage(), Stage(), Stage()
    fusible: Tuple[str, ...] = ("_write_starts",)
    """Names of methods of nothing but tensors, which draw no random numbers: they are compiled where that is possible."""

    def __init__(self, cfg: Config, seed: Optional[int] = None, render_mode: Optional[str] = None):
        """render_mode "rgb_array": render() returns pictures; "human": a window or a page shows the environments. Raises
        ValueError, one line, for a mistake in `cfg`, RuntimeError where the engine cannot run or nothing can be drawn."""
        check_class(type(self), DexHandVecEnv)
        if not isinstance(cfg, Config):
            raise ValueError(f"cfg = {shortened(repr(cfg))}: allowed is a Config")
        Config.validate(cfg)  # the other settings of a run do not concern the environment
        seed = check_seed(seed)
        if render_mode is not None:
            check_name("render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.cfg, self.task, self.hand, self.num_envs = cfg, cfg.task, cfg.hand, cfg.env.num_envs
        self.control_dt = cfg.control_dt
        self.metadata = {**self.metadata, "render_fps": round(1 / self.control_dt)}
        self._build(np.random.default_rng(seed))
        self._capture()
        if overrides(self, "vary"):
            check_variation(self.vary())  # before the seed: it draws numbers
        self.generator.seed() if seed is None else self.generator.manual_seed(seed % 2**63)
        self._begin_first_episodes()
        self._fuse()
        self._make_spaces()
        self.watchers: List[Callable[[Dict[str, Any]], None]] = []
        """Called with info after every step."""
        self.viewer: Any = None
        self._renderer: Any = None
        if render_mode == "human":
            self.show()
            print(f"watch: {self.viewer.where}", flush=True)

    # Construction -----------------------------------------------------------------------------------------------------

    def _build(self, random: np.random.Generator) -> None:
        """Makes engine, stages, buffers and instruments. Properties that environments keep for life are sampled from
        `random`."""
        cfg, env, randomize, n = self.cfg, self.cfg.env, self.task.randomize, self.num_envs
        edit = self.edit_spec if overrides(self, "edit_spec") else None
        self.quantities = {**type(self).quantities, **of_parts(self.hand, cfg)}
        taken = {"hand", "world", *RAW, *self.quantities, *self.timers, *self.hand.body_names, *self.hand.dof_names}
        scene = dataclasses.replace(check_scene(self.scene(), taken), hand=self.hand, edit_spec=edit)
        scene.self_collision = env.self_collision
        check_engine(randomize, engine := choose_engine(env.backend, env.device)[0])
        scene = randomizable(scene, randomize)
        forever = once(n, random) if randomize.per == "environment" else None
        variation = Physics(randomize, scene, cfg.sim.gravity, "cpu").draw(forever) if forever else {}
        variation.update(choices_for_life(scene, n) if engine == "isaacgym" else {})
        cameras = n if self.render_mode == "rgb_array" else int(env.record_video)
        view = View(cameras, env.video_size, window=bool(env.render) or self.render_mode == "human")
        self.sim = make_sim(scene, n, cfg.sim, self.task.decimation, env.backend, env.device, variation, view)
        self.device = self.sim.device
        self.stages = Stages(self.task, self.hand, self.control_dt, n, self.device)
        self.limits = self.stages.limits
        self.generator = torch.Generator(device=self.device)
        self._randomize(scene)
        self._start = {
            "hand": torch.zeros_like(self.stages.targets),
            **{name: self.sim.root_state[:, i, :7].clone() for i, name in enumerate(self.sim.actor_names) if i},
        }
        self._episode_step = torch.zeros(n, dtype=torch.int64, device=self.device)
        self._episode_return = torch.zeros(n, dtype=torch.float32, device=self.device)
        self._beginning = torch.zeros(n, dtype=torch.bool, device=self.device)
        self.consecutive_successes = torch.zeros_like(self._episode_step)
        self.raw = raw_quantities(self.sim, scene, self.stages, self._start, self._episode_step, variation, self.width)
        self._sensors, late = self._make_sensors()
        self._instruments = Instruments(self, self.raw, self._sensors, late)
        parts = [part for part in (self.stages.commands, self._sensors, late) if part]
        if forever:
            for part in parts:
                part.draw(forever)
        varies = overrides(self, "vary")
        self._redraw = Redraw(self, varies, *(None, []) if forever else (self._physics, parts))
        self.differ = randomize.per_environment
        """Whether environments differ in properties that they keep from episode to episode."""
        some_differ = bool(variation) or self._redraw.varies
        looks = [f"{thing.name}_{what}" for thing in scene.free for what in ("size", "which") if some_differ]
        self._sizes = {name: self.raw[name] for name in looks if name in self.raw}

    def _randomize(self, scene: Scene) -> None:
        """Makes what draws differences of the physics, of commands, and pushes."""
        randomize, control = self.task.randomize, self.stages
        self.width = torch.zeros((), dtype=torch.float64, device=self.device) if randomize.curriculum else None
        """How far ranges have widened, [] in [0, 1]; None: fully, there is no curriculum."""
        self._physics = Physics(randomize, scene, self.cfg.sim.gravity, self.device, self.width)
        if any(randomize.is_on(name) for name in OF_COMMANDS):
            control.commands = Commands(randomize, self.hand, control.dof_targets, self.generator, self.width)
        self._pushes: Optional[Pushes] = None
        if randomize.is_on("push_impulse") or randomize.is_on("push_twist"):
            self._pushes = Pushes(randomize, scene.free, self.control_dt, self.num_envs, self.generator)
            self.sim.push(torch.zeros(self.num_envs, len(scene.free), 6, device=self.device))

    def _make_sensors(self) -> Tuple[Optional[Sensors], Optional[Late]]:
        """What is wrong with sensors, and late; None for what is not."""
        randomize, offset = self.task.randomize, self.stages.commands.offset if self.stages.commands else None
        sensors = late = None
        if any(randomize.is_on(name) for name in OF_SENSORS):
            sensors = Sensors(randomize, self.hand, self.raw, self.sim.actor_names[1:], offset, self.width)
        if randomize.observation_delay[1]:
            late = Late(randomize, self.num_envs, self.device, self.width)
        return sensors, late

    def _capture(self) -> None:
        """The parts of a step, as CUDA graphs where that is possible."""
        env = self.cfg.env
        graphs = env.cuda_graphs and self.device.type == "cuda"
        self._compiles = compiles = graphs and env.compile
        finish, observe = self._finish_step, self._observe_starts
        if compiles:
            finish, observe = Fused(finish), Fused(observe)
        draws = self._sensors or self._pushes or self.stages.commands
        self._drive = Captured(self._drive_dofs, graphs, self.generator if draws else None, compiles)
        self._finish = Captured(finish, graphs, compiles=compiles)
        self._place = Captured(self._place_starts, graphs, self.generator, compiles)
        self._observe = Captured(observe, graphs, compiles=compiles)

    def _fuse(self) -> None:
        """Compiles what becomes of random numbers and of actions. (The first episodes have given memory to all that
        varies.)"""
        drawn = ((self._redraw, "apply"), (self.stages.commands, "carry"), (self._pushes, "wrench"))
        parts = (*drawn, (self.stages, "follow"), *((self, name) for name in self.fusible))
        for owner, name in parts if self._compiles else ():
            if owner:
                setattr(owner, name, Fused(getattr(owner, name)))

    def _begin_first_episodes(self) -> None:
        """Begins the first episodes, which tries out all that the task defines. Raises ValueError, one line, where it
        does not fit."""
        self._begin_episodes(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        check_started(self._start, self.limits.lower, self.limits.upper, self.hand.action_names)
        self._instruments.try_out(self.sim.scene.ghosts)
        self._observe()
        self.terms = terms = Terms(self)
        self.reward_weights, self.reward_terms = terms.weights, terms.newest
        """Name -> weight of each row of `reward_terms`, and these rows in the newest step, unweighted [terms and
        endings, N]."""
        self.success_criteria, self.failure_criteria = terms.successes, terms.failures
        """Names of the criteria that end an episode."""
        check_training(self.task.randomize, terms.successes, self.mastered, overrides(self, "mastered"))

    def _make_spaces(self) -> None:
        def numbers(width: int) -> gym.spaces.Box:
            return gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)

        self._obs_size, more = self._instruments.widths()
        self.single_observation_space = numbers(self._obs_size)
        self.single_critic_space = numbers(self._obs_size + more) if more else None
        """Space of a row of info["critic_obs"]; None if there is no such entry."""
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (self.stages.newest.shape[1],), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    # The loop ---------------------------------------------------------------------------------------------------------

    def reset(self, *, seed: Optional[int] = None, options: Optional[Dict[str, Any]] = None) -> Tuple[Tensor, Dict]:
        """New episodes, in every environment or in those of options["reset_mask"] ([N] bool, torch or NumPy)."""
        self._check_open()
        seed = check_seed(seed)
        if seed is not None:
            super().reset(seed=seed)
            self.generator.manual_seed(seed % 2**63)
        self._redraw.failed.zero_()
        self._begin_episodes(check_reset(options, self.num_envs, self.device))
        return self._split(self._observe())

    def step(self, actions: Any) -> Tuple[Tensor, Tensor, Tensor, Tensor, Dict[str, Any]]:
        """One control step. actions [N, A] in [-1, 1] (clamped; any array-like) -> obs [N, O], reward [N], terminated
        [N] bool, truncated [N] bool, info (class docstring)."""
        self._check_open()
        newest = self.stages.newest
        newest.copy_(as_tensor(actions, newest.shape))
        self._drive.discard_if_replaced(*self.stages.functions)
        self._drive()
        self.sim.step(self.stages.dof_targets)
        self.terms.steps += 1
        rows, reward, terminated, truncated, episode_return, episode_length, success, endings, *figures = self._finish()
        final_obs, final_critic_obs = self._split(rows, "final_critic_obs")
        done = terminated | truncated
        if self._drive.on_gpu or done.any():  # reading it from a GPU would stall
            self._begin_episodes(done)
            rows = torch.where(done.unsqueeze(1), self._observe(), rows)
        else:
            rows = copies(rows)
        obs, critic_obs = self._split(rows)
        info = {
            **critic_obs,
            **final_critic_obs,
            "final_obs": final_obs,
            "_final_obs": done,
            "episode": {"r": episode_return, "l": episode_length, **dict(zip(self.figures, figures))},
            "_episode": done.clone(),
            "success": success,
            "endings": dict(zip(self.terms.endings, endings)),
            "time_outs": truncated.clone(),
        }
        for watch in tuple(self.watchers):  # one that fails removes itself
            watch(info)
        return obs, reward, terminated, truncated, info

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the environment is closed: make another one")

    def _drive_dofs(self) -> None:
        self.stages.run(self.measured)
        if self._sensors:
            self._sensors.draw_noise(self.generator)
        if self._pushes:
            self.sim.push(self._pushes.draw(self.width))

    def _finish_step(self) -> Tuple[Tensor, ...]:
        """The results of the step: observation [N, S], reward, terminated, truncated, return and length so far,
        success, endings [J, N]."""
        self._episode_step += 1
        m = self._instruments.measure(self.control_dt)
        rows = self._instruments.observe(m)
        verdict = self._judge(m, rows)
        self._blank(rows, verdict.bad)
        self._instruments.remember(m)
        ended = verdict.terminated, verdict.truncated, self._episode_return, self._episode_step
        return (rows, verdict.reward, *ended, verdict.success, verdict.endings, *verdict.figures)

    def _begin_episodes(self, mask: Tensor) -> None:
        """Begins new episodes in the environments of `mask`."""
        self._beginning.copy_(mask)
        self._place.discard_if_replaced(self.stages.coupling)
        self._place()
        self.sim.write_state(self._beginning)

    def _observe_starts(self) -> Tensor:
        """The observation [N, S] after episodes have begun."""
        m = self._instruments.measure(0.0)
        self._instruments.remember(m, self._beginning)
        rows = self._instruments.observe(m, self._beginning)
        self._blank(rows, ~finite(rows))  # such an episode ends in the next step
        return rows

    def _judge(self, m: Measured, rows: Tensor) -> Verdict:
        """The verdict on this step. Where anything that it was computed from is not finite, it is only `bad`; a reward
        term that is not finite shows in the return."""
        verdict = self.terms.judge(m, self._episode_step >= self.task.episode_length)
        total = self._episode_return + verdict.reward
        good = finite(total, *verdict.figures, *self._looked_at(m, rows)) & ~(self.sim.nonfinite | self.stages.refused)
        verdict = verdict.where(good)
        self._episode_return += verdict.reward
        done, consecutive = verdict.terminated | verdict.truncated, self.consecutive_successes
        consecutive.copy_(torch.where(done & ~verdict.success, 0, consecutive + verdict.success))
        self._redraw.failed.copy_(done & ~verdict.success & good)
        self.terms.count(verdict, done, self._episode_step)
        return verdict

    def _blank(self, rows: Tensor, bad: Tensor) -> None:
        """Zeroes the rows [N, S] where `bad` [N] is True."""
        if self._drive.on_gpu or bad.any():  # reading it from a GPU would stall
            rows.masked_fill_(bad.unsqueeze(1), 0.0)

    def _looked_at(self, m: Measured, rows: Tensor) -> List[Tensor]:
        """What rewards and criteria read, and what is observed, [N, ...]; not the engine's states, which it checks."""
        sim = self.sim
        states = [sim.dof_state, sim.root_state, sim.rigid_body_state, sim.net_contact_force]
        return [rows, sim.net_contact_force, *self._instruments.hidden(m, states)]

    def _place_starts(self) -> None:
        """Writes random starts of the environments in `_beginning` into the tensors; write_state() passes them on."""
        mask = self._beginning
        self._redraw(self.vary(), mask)
        start = self.sample_start()
        check_start(start, self._start)
        self._write_starts(start, mask)
        if self._sensors:
            self._sensors.draw_noise(self.generator, mask)

    def _write_starts(self, start: Dict[str, Tensor], mask: Tensor) -> None:
        """Writes `start` in the environments of `mask` [N]."""
        column = mask.unsqueeze(1)
        for name, value in start.items():
            self._start[name].copy_(torch.where(column, value, self._start[name]))
        self.stages.restart(mask, self._start["hand"])
        for buffer in (*self._instruments.timers.values(), self._episode_step, self._episode_return):
            buffer.masked_fill_(mask.view(-1, *[1] * (buffer.dim() - 1)), 0)
        dof_targets = self.stages.dof_targets
        dofs = torch.stack((dof_targets, torch.zeros_like(dof_targets)), -1)
        self.sim.dof_state.copy_(torch.where(mask.view(-1, 1, 1), dofs, self.sim.dof_state))
        for i, name in enumerate(self.sim.actor_names[1:], 1):
            at_rest = torch.nn.functional.pad(self._start[name], (0, 6))
            self.sim.root_state[:, i] = torch.where(column, at_rest, self.sim.root_state[:, i])

    # What a user asks for ---------------------------------------------------------------------------------------------

    @property
    def measured(self) -> Measured:
        """The quantities of the newest instant, by name (quantities.py)."""
        return self._instruments.measured

    def observable(self) -> List[str]:
        """Names of the quantities that can be observed: those with a row for each environment."""
        return self._instruments.observable()

    @property
    def object_halves(self) -> Tensor:
        """Half extents of the free objects [N, objects, 3], m."""
        halves = [half_extents(self.raw[f"{thing.name}_size"], thing) for thing in self.sim.scene.free]
        return torch.stack(halves, 1) if halves else self._episode_return.new_zeros(self.num_envs, 0, 3)

    @property
    def object_choices(self) -> Tensor:
        """Which of its choices each AnyOf is [N, AnyOfs]."""
        found = [self.raw[f"{x.name}_which"] for x in self.sim.scene.free if f"{x.name}_which" in self.raw]
        return torch.stack(found, 1).float() if found else self._episode_return.new_zeros(self.num_envs, 0)

    def _split(self, rows: Tensor, name: str = "critic_obs") -> Tuple[Tensor, Dict[str, Tensor]]:
        """The policy's observation, and the entry of info for the critic."""
        if not self.task.critic_observation_keys:
            return rows, {}
        return copies(rows[:, : self._obs_size]), {name: rows}

    def observations(self) -> Dict[str, Tensor]:
        """Every quantity of the newest instant by name, each [N, width]: all that policy and critic can observe."""
        return {name: self.measured[name].reshape(self.num_envs, -1).clone() for name in self.observable()}

    def memory(self) -> Dict[str, Tensor]:
        """The state that persists between steps, as views by name. A task with more state adds it here."""
        return {
            **{f"sim.{name}": value for name, value in self.sim.memory().items()},
            **{f"start_{name}": value for name, value in self._start.items()},
            **self._instruments.memory(),
            **self.stages.memory(),
            "episode_step": self._episode_step,
            "episode_return": self._episode_return,
            "consecutive_successes": self.consecutive_successes,
            "sums": self.terms.sums,
            **self._sizes,
            **(self._sensors.memory() if self._sensors else {}),
            **({"width": self.width.view(1)} if self.width is not None else {}),
        }

    def get_state(self) -> Dict[str, Any]:
        """A copy of memory(), the random numbers' state and the task's name; for set_state() and torch.save."""
        return get_state(self)

    def set_state(self, state: Dict[str, Any]) -> None:
        """Restores a state from get_state(); on the CPU what follows is the same bit for bit. Raises ValueError, one
        line, and changes nothing for that of another task, hand or number of environments."""
        set_state(self, state)

    def statistics(self) -> Dict[str, float]:
        """Means since the last call: reward terms, raw and weighted (per step; the weighted ones sum to the reward),
        endings (share of finished episodes), success_rate (if there are successes), episode_length, episodes, nonfinite
        and overflow (counts), randomize_width (with a curriculum, which this widens). Costs one transfer."""
        found = self.terms.statistics(self.sim.take_overflow(), self.num_envs)
        if self.width is None:
            return found
        if share_mastered(self.mastered, found) >= self.task.randomize.curriculum:
            self.width.add_(WIDENING).clamp_(max=1.0)
        return {**found, "randomize_width": self.width.item()}

    def widen(self) -> None:
        """From now on draws are those of a test: at their full width, none of them again."""
        self._redraw.retry.zero_()
        if self.width is not None:
            self.width.fill_(1.0)

    def show(self, speed: str = "1x") -> None:
        """Opens `viewer`, a window or a page that shows the environments from now on. Raises RuntimeError if neither is
        possible, ValueError if the page cannot be served at its address."""
        from dexhand_gym.watch import open_viewer

        self.viewer = open_viewer(self, speed)

    def hurry(self) -> None:
        """Ends a viewer's pause or slow motion, because the program wants to end."""
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
            if getattr(self, name, None) is not None:  # else it was never made
                getattr(self, name).close()
