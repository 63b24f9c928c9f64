"""Gymnasium has check_env for single environments and nothing for vector ones: this is the missing half."""

from __future__ import annotations

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode, VectorEnv


def check_vector_env(env: VectorEnv, steps: int = 20) -> None:
    """Raises AssertionError, saying what is wrong, unless `env` is a torch vector environment that resets within the
    step.

    Plays random actions. Give it an environment with short episodes, or enough steps: without a finished episode
    the most delicate part of the contract goes unchecked, which is an error too.
    """
    n = env.num_envs
    obs_shape, action_shape = env.observation_space.shape or (), env.action_space.shape or ()
    assert env.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP, "metadata['autoreset_mode'] is not SAME_STEP"
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert isinstance(getattr(env, name), gym.spaces.Box), f"{name} is not a Box"
    single_obs_shape, single_action_shape = (
        env.single_observation_space.shape or (),
        env.single_action_space.shape or (),
    )
    assert obs_shape == (n, *single_obs_shape), "observation_space is not the batch"
    assert action_shape == (n, *single_action_shape), "action_space is not the batch"

    first, info = env.reset(seed=1)
    _check_tensor("reset's observation", first, obs_shape, torch.float32)
    assert isinstance(info, dict), "reset's info is not a dict"
    again, _ = env.reset(seed=1)
    assert torch.allclose(first, again, atol=1e-3), "the same seed gives another first observation"

    finished = False
    generator = torch.Generator().manual_seed(0)
    obs = env.reset(seed=1)[0]
    for _ in range(steps):
        before, kept = obs, obs.clone()
        actions = torch.rand(action_shape, generator=generator, dtype=torch.float32) * 2 - 1
        obs, reward, terminated, truncated, info = env.step(actions.to(first.device))
        assert torch.equal(before, kept), "step overwrote the observation it returned before"
        _check_tensor("observation", obs, obs_shape, torch.float32)
        _check_tensor("reward", reward, (n,), torch.float32)
        _check_tensor("terminated", terminated, (n,), torch.bool)
        _check_tensor("truncated", truncated, (n,), torch.bool)
        assert torch.isfinite(obs).all() and torch.isfinite(reward).all(), "not finite"
        assert not (terminated & truncated).any(), "terminated and truncated at once"
        done = terminated | truncated
        assert torch.equal(info["_final_obs"], done), "info['_final_obs'] is not terminated | truncated"
        _check_tensor("info['final_obs']", info["final_obs"], obs_shape, torch.float32)
        assert torch.allclose(info["final_obs"][~done], obs[~done], atol=1e-4), (
            "final_obs of a running row is not its observation"
        )
        if done.any():
            finished = True
            assert not torch.equal(info["final_obs"][done], obs[done]), (
                "step returned the final, not the new observation"
            )
            assert (info["episode"]["l"][done] > 0).all(), "a finished episode has no length"
    assert finished, f"no episode ended in {steps} steps: shorten the episodes or check for longer"


def _check_tensor(what: str, value: object, shape: tuple, dtype: torch.dtype) -> None:
    assert isinstance(value, torch.Tensor), f"{what} is a {type(value).__name__}, not a tensor"
    assert tuple(value.shape) == tuple(shape), f"{what} has shape {tuple(value.shape)}, not {tuple(shape)}"
    assert value.dtype == dtype, f"{what} is {value.dtype}, not {dtype}"
