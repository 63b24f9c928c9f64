"""The state of an environment, as a checkpoint stores it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import torch
from torch import Tensor

from dexhand_gym.envs.checks import check_remembered
from dexhand_gym.fields import shortened
from dexhand_gym.objects import AnyOf


def get_state(env: Any) -> Dict[str, Any]:
    """See DexHandVecEnv.get_state."""
    hand = "" if env.cfg.env.hand == "right" else f" with the hand {env.cfg.env.hand}"
    state = {"task": type(env).__name__ + hand, "steps": env.terms.steps, "generator": env.generator.get_state()}
    return {**state, **sets(env), **{name: value.clone() for name, value in env.memory().items()}}


def sets(env: Any) -> Dict[str, str]:
    """Short for what each object may be."""
    return {f"{thing.name}_set": name_of_set(thing) for thing in env.sim.scene.free if isinstance(thing, AnyOf)}


def name_of_set(choices: AnyOf) -> str:
    """Short for what an object may be: numbers of choices mean something else in another set."""
    # A mesh's file is named after what is in it, and lies elsewhere on another machine.
    content = "".join(repr(replace(thing, file=Path(thing.file).name)) for thing in choices.of)
    return f"{len(choices.of)} objects, {hashlib.sha256(content.encode()).hexdigest()[:8]}"


@torch.inference_mode()
def set_state(env: Any, state: Dict[str, Any]) -> None:
    """See DexHandVecEnv.set_state."""
    if not isinstance(state, dict):
        raise ValueError(f"state is a {type(state).__name__}: allowed is what get_state() returns")
    if "last_actions" not in state and "prev_actions" not in env.memory():  # its older name
        state = {{"prev_actions": "last_actions"}.get(name, name): value for name, value in state.items()}
    for name in env.memory():
        if name.startswith("next_prev_") and name not in state and name[5:] in state:  # older states have one for both
            state = {**state, name: state[name[5:]]}
    mine, delay = get_state(env), env.task.randomize.action_delay[1]
    remembered = {f"{prev}{name}" for name in env.quantities for prev in ("prev_", "next_prev_")}
    state = {
        name: value for name, value in state.items() if name in mine or name not in remembered
    }  # older ones had more
    state = {**sets(env), **state}  # older ones do not say
    counts = {"episode_step": 2**31, "consecutive_successes": 2**31, "delay_steps": delay, "width": 1}
    for thing in env.sim.scene.free:
        if isinstance(thing, AnyOf):
            counts.update(dict.fromkeys((f"{thing.name}_which", f"sim.{thing.name}.which"), len(thing.of) - 1))
    for name in [*mine, *state]:
        here, there = (
            list(value.shape) if isinstance(value, Tensor) else value
            for value in (mine.get(name, "absent"), state.get(name, "absent"))
        )
        if here != there and (name not in ("steps", "generator") or "absent" in (here, there)):
            raise ValueError(f"its {name} is {there}, here {here}")
        value = state.get(name)
        if isinstance(value, Tensor) and name != "generator":
            types = {value.dtype, mine[name].dtype}
            if len(types) > 1 and types != {torch.float32, torch.float64}:  # which engines differ in
                raise ValueError(f"its {name} is of {value.dtype}, here {mine[name].dtype}")
            check_remembered(name, value, counts.get(name))
    if not isinstance(state["steps"], int) or state["steps"] < 0:
        raise ValueError(f"its steps is {shortened(repr(state['steps']))}: allowed is a count")
    set_generator(env.generator, state["generator"])
    for name, value in env.memory().items():
        value.copy_(state[name])
    env.terms.steps = state["steps"]


def set_generator(generator: torch.Generator, state: Any) -> None:
    """Raises ValueError, one line, if `state` is not one; leaves the generator alone if it is one of another kind of
    device."""
    if not isinstance(state, Tensor) or state.dtype != torch.uint8:
        raise ValueError(f"its generator is a {type(state).__name__}: allowed is the state of a torch.Generator")
    if state.shape == generator.get_state().shape:
        try:
            generator.set_state(state.cpu())
        except RuntimeError as error:
            raise ValueError(f"its generator is damaged: {' '.join(str(error).split())[:100]}") from None
