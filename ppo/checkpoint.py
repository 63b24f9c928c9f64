"""Checkpoints in the layout of rl_games 1.6 (.pth): a crash never harms an old one, and no file is trusted."""

from __future__ import annotations

import os
import struct
import time
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from torch import nn

TEMPORARY_NAME = ".checkpoint.tmp"  # one per folder: what a killed process leaves is overwritten by the next save


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line that says why."""


def save(
    path: str | Path,
    agent: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    epoch: int,
    frame: int,
    best_reward: float,
    env_state: Any = None,
    ppo_state: Any = None,
) -> None:
    """Writes one file. At every moment `path` is either the old file or the new one, whole."""
    model, critic = split(agent.state_dict())
    optimizers = split_optimizer(optimizer, len([name for name, _ in agent.named_parameters() if name in model]))
    content = {
        "model": model,
        "epoch": epoch,  # iterations done
        "frame": frame,  # environment steps done
        "optimizer": optimizers[0],
        "last_mean_rewards": float(best_reward),  # rl_games' name for the best mean reward so far
        "env_state": env_state,
        "ppo_state": ppo_state or {},  # ours, ignored by rl_games: what else a true resume needs
    }
    if critic:  # rl_games' names, spelled so
        content["assymetric_vf_nets"], content["assymetric_vf_optimizer"] = critic, optimizers[1]
    write_atomically(Path(path), portable(content, "checkpoint"))


def split(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An agent's state as rl_games stores it: the model, and the central value network with the returns' statistics."""
    ours = "central_value."
    model = OrderedDict((key, x) for key, x in state.items() if not key.startswith(ours))
    critic = OrderedDict((f"model.{key[len(ours) :]}", x) for key, x in state.items() if key.startswith(ours))
    if critic:
        critic.update((f"model.{key}", x) for key, x in model.items() if key.startswith("value_mean_std."))
    return model, critic


def split_optimizer(optimizer: torch.optim.Optimizer, first: int) -> list[dict[str, Any]]:
    """Adam's state as rl_games stores it: of the `first` parameters, the model's, and of the others."""
    adam = optimizer.state_dict()
    parts = []
    for indices in (range(first), range(first, len(adam["param_groups"][0]["params"]))):
        state = {i - indices.start: adam["state"][i] for i in indices if i in adam["state"]}
        # The learning rate as a tensor and `capturable` serve CUDA graphs; rl_games writes a float and False.
        group = {**adam["param_groups"][0], "params": list(range(len(indices))), "capturable": False}
        parts.append({"state": state, "param_groups": [{**group, "lr": float(group["lr"])}]})
    return parts


def portable(value: Any, name: str) -> Any:
    """`value` with its tensors on the CPU, for any machine to read. Refuses what load() would refuse to read back."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if type(value) in (dict, OrderedDict):
        return type(value)((key, portable(entry, f"{name}.{key}")) for key, entry in value.items())
    if type(value) in (list, tuple):
        return type(value)(portable(entry, f"{name}[{i}]") for i, entry in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise CheckpointError(f"{name} is a {type(value)}: allowed are tensors, numbers, text, and dicts and lists of them")


def write_atomically(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / TEMPORARY_NAME
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # the renaming must reach the disk too
    os.close(folder)


def sweep(folder: Path) -> None:
    """Removes what a killed process has left there, unless it is so new that somebody may still be writing it."""
    orphan = folder / TEMPORARY_NAME
    try:
        if time.time() - orphan.stat().st_mtime > 600:
            orphan.unlink()
    except OSError:
        pass  # there is none, or it is not ours to remove


def load(path: str | Path, device: Any = "cpu") -> dict[str, Any]:
    """Reads a file of ours or of rl_games as the dict that save() writes; nothing in it is executed, whoever wrote it.
    In a file that holds a model only, epoch and frame become 0 and the optimizer None."""
    try:
        with numpy_stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol other than torch's
            content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # what a damaged or foreign file raises depends on which of its bytes is wrong
        foreign = "unsupported global" in str(error).lower()
        why = "it holds code or objects, not only data" if foreign else "it is damaged or not a checkpoint"
        raise CheckpointError(f"{path}: not loaded, {why}") from error
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError(f"{path}: not loaded, it has no model as rl_games writes it")
    empty = {"epoch": 0, "frame": 0, "optimizer": None, "last_mean_rewards": -1e9, "env_state": None, "ppo_state": {}}
    content = {**empty, "assymetric_vf_nets": None, "assymetric_vf_optimizer": None, **content}
    for name, types in (("epoch", int), ("frame", int), ("last_mean_rewards", (int, float)), ("ppo_state", dict)):
        if not isinstance(content[name], types):
            raise CheckpointError(f"{path}: not loaded, its {name} is a {type(content[name]).__name__}")
    for name in ("model", "assymetric_vf_nets"):
        if name == "model" or content[name] is not None:
            content[name] = tensors(content[name], path)
    return content


def tensors(state: Any, path: str | Path) -> dict[str, torch.Tensor]:
    """A network's state, without the prefix that torch.compile puts in it under rl_games 1.6.5."""
    if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise CheckpointError(f"{path}: not loaded, it has no model as rl_games writes it")
    bare = {str(key).replace("_orig_mod.", ""): x for key, x in state.items()}
    if len(bare) < len(state):
        raise CheckpointError(f"{path}: not loaded, it has tensors twice, with and without the prefix _orig_mod.")
    return bare


def load_weights(agent: nn.Module, content: dict[str, Any], path: str | Path = "the checkpoint") -> None:
    """Weights and normalisers, in place; those of the critic only if agent and file have one that sees more than the
    policy. CheckpointError says what does not fit."""
    (ours, critic), theirs, nets = split(agent.state_dict()), content["model"], content["assymetric_vf_nets"]
    compare(path, (ours, theirs), architecture, shapes)
    if critic:
        if nets is None:
            raise CheckpointError(f"{path} does not fit: its critic sees what the policy sees, here it sees more")
        compare(path, (critic, nets), shapes)
        theirs = {**theirs, **{key.replace("model.", "central_value.", 1): x for key, x in nets.items()}}
        statistics = [key for key in theirs if key.startswith("central_value.value_mean_std.")]
        theirs.update((key[len("central_value.") :], theirs.pop(key)) for key in statistics)
    agent.load_state_dict(theirs)


def compare(
    path: str | Path, states: tuple, *descriptions: Callable[[dict[str, torch.Tensor]], dict[str, Any]]
) -> None:
    """Raises CheckpointError, one line, if the descriptions of (our, their) tensors differ."""
    for describe in descriptions:
        here, there = (describe(state) for state in states)
        differ = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        if differ:
            lists = (", ".join(f"{name} {x.get(name, 'absent')}" for name in differ[:3]) for x in (there, here))
            raise CheckpointError(f"{path} does not fit: it has {next(lists)}; here {next(lists)}")


def architecture(model: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a policy's tensors say of it, mostly in the names of PPOConfig."""
    layers = [x for key, x in model.items() if key.startswith("a2c_network.actor_mlp.") and x.dim() == 2]
    return {
        "observations": layers[0].shape[1] if layers else 0,
        "actions": model["a2c_network.sigma"].numel() if "a2c_network.sigma" in model else 0,
        "units": [len(x) for x in layers],
        "separate": any(key.startswith("a2c_network.critic_mlp.") for key in model),
        "normalize_input": "running_mean_std.count" in model,
        "normalize_value": "value_mean_std.count" in model,
    }


def shapes(model: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {key: list(x.shape) for key, x in model.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
    """Adam's moments and the learning rate, if the file has them; other options remain those of `optimizer`."""
    if content["optimizer"] is None:
        return
    group, learning_rate = optimizer.param_groups[0], optimizer.param_groups[0]["lr"]
    try:
        saved_group, state = content["optimizer"]["param_groups"][0], dict(content["optimizer"]["state"])
        critic = content["assymetric_vf_optimizer"]
        if critic is not None:
            first = len(saved_group["params"])
            state.update((first + i, moments) for i, moments in critic["state"].items())
        for i, moments in state.items():
            if {moments[name].shape for name in ("exp_avg", "exp_avg_sq")} != {group["params"][i].shape}:
                raise ValueError("sizes differ")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        learning_rate.fill_(saved_group["lr"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint's optimizer does not fit its model ({error!r})") from error
    optimizer.param_groups[0]["lr"] = learning_rate  # load_state_dict has put a copy in its place


class NumpyDType:
    """Stands in for np.dtype while a stock rl_games file is read, see numpy_stand_ins()."""

    def __init__(self, code: str, *_: Any):
        self.format = {"f4": "<f", "f8": "<d", "i4": "<i", "i8": "<q"}[code]

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment, not needed."""


@contextmanager
def numpy_stand_ins() -> Iterator[None]:
    """Stock rl_games files hold one NumPy scalar, last_mean_rewards. The functions they name to build it are replaced
    by harmless ones of ours, so that reading needs neither NumPy nor trust: np.float32(3.5) is read as 3.5."""

    def named(name: str, call: Callable) -> Callable:
        def stand_in(*args: Any) -> Any:
            return call(*args)

        stand_in.__module__, _, stand_in.__name__ = name.rpartition(".")
        stand_in.__qualname__ = stand_in.__name__
        return stand_in

    def scalar(dtype: NumpyDType, data: bytes) -> float:
        return struct.unpack(dtype.format, data)[0]

    stand_ins = [NumpyDType, named("numpy.dtype", NumpyDType), named("numpy.core.multiarray.scalar", scalar)]
    stand_ins += [named("numpy._core.multiarray.scalar", scalar)]  # NumPy 2's name of it
    stand_ins += [named("_codecs.encode", lambda text, _: text.encode("latin1"))]  # how pickle stores bytes
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(stand_ins)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
