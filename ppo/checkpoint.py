"""Checkpoints in the layout of rl_games 1.6 (.pth): a crash never harms an old one, and no file is trusted."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, Callable

import torch
from torch import nn

from .adam import Adam
from .text import printable

TEMPORARY_NAME = ".checkpoint.tmp"  # one per folder: what a killed process leaves is overwritten by the next save
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
"""Torch's name for a tensor's storage -> its dtype."""
MAX_VALUES, MAX_DEPTH = 1_000_000, 40  # in one file


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line that says why."""

    def __init__(self, message: str):
        super().__init__(printable(message, 1000))


class SaveError(OSError):
    """A checkpoint that could not be written; the message is one line with its path."""


def save(
    path: str | Path,
    agent: nn.Module,
    optimizer: Adam,
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
    check_plain(content)
    write_atomically(Path(path), on_cpu(content))


def split(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An agent's state as rl_games stores it: the model, and the central value network with the returns' statistics."""
    ours = "central_value."
    model = OrderedDict((key, x) for key, x in state.items() if not key.startswith(ours))
    critic = OrderedDict((f"model.{key[len(ours) :]}", x) for key, x in state.items() if key.startswith(ours))
    if critic:
        critic.update((f"model.{key}", x) for key, x in model.items() if key.startswith("value_mean_std."))
    return model, critic


def split_optimizer(optimizer: Adam, first: int) -> list[dict[str, Any]]:
    """Adam's state as rl_games stores it: one for the `first` parameters (the model's), one for the others."""
    adam = optimizer.state_dict()
    parts = []
    for indices in (range(first), range(first, len(adam["param_groups"][0]["params"]))):
        state = {i - indices.start: adam["state"][i] for i in indices if i in adam["state"]}
        group = {
            **adam["param_groups"][0],
            "params": list(range(len(indices))),
        }  # its rate is a float in rl_games' files
        parts.append({"state": state, "param_groups": [{**group, "lr": float(group["lr"])}]})
    return parts


def check_plain(content: Any) -> None:
    """Raises CheckpointError unless `content` is what load() reads back: tensors, numbers, text, dicts and lists of
    them, where a value that occurs several times counts each time."""
    left, todo = MAX_VALUES, [(content, "checkpoint", 0)]
    while todo:
        value, name, depth = todo.pop()
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise CheckpointError(f"checkpoint: more than {MAX_VALUES} values, or some nested deeper than {MAX_DEPTH}")
        if type(value) in (dict, OrderedDict) and all(type(key) in (str, int) for key in value):
            todo += [(entry, f"{name:.200}.{key!s:.80}", depth + 1) for key, entry in value.items()]
        elif type(value) in (list, tuple):
            todo += [(entry, f"{name:.200}[{i}]", depth + 1) for i, entry in enumerate(value)]
        elif isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_meta or value.dtype not in DTYPES.values():
                kind = f"{value.dtype}, {value.layout}, {value.device}"
                raise CheckpointError(f"{name} is a tensor ({kind}): allowed are dense ones of numbers")
        elif value is not None and type(value) not in (bool, int, float, str):
            allowed = "tensors, numbers, text, and dicts and lists of them"
            raise CheckpointError(f"{name} is a {type(value)}: allowed are {allowed}")


def on_cpu(value: Any) -> Any:
    """`value` with its tensors on the CPU, for any machine to read."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return type(value)((key, on_cpu(entry)) for key, entry in value.items())
    return type(value)(map(on_cpu, value)) if isinstance(value, (list, tuple)) else value


def write_atomically(path: Path, content: Any) -> None:
    """Raises SaveError, and leaves what was there, if the disk is full or the folder is not there or cannot be
    written."""
    temporary = path.parent / TEMPORARY_NAME
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # the renaming must reach the disk too
        os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, (OSError, RuntimeError)):  # torch may raise its own error after that of the full disk
            known = [getattr(e, "strerror", None) for e in (error, error.__context__)]
            why = next(filter(None, known), str(error))
            raise SaveError(f"{printable(path)}: not saved, {printable(why, 200)}") from error
        raise


def make_folder(folder: Path) -> None:
    """Makes a folder. Raises SaveError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"{printable(folder)}: not made, {error.strerror}") from error


def sweep(folder: Path) -> None:
    """Removes what a killed process has left there, unless it is so new that somebody may still be writing it."""
    orphan = folder / TEMPORARY_NAME
    try:
        if time.time() - orphan.stat().st_mtime > 600:
            orphan.unlink()
    except OSError:
        pass  # there is none, or it is not ours to remove


def load(path: str | Path, device: Any = "cpu") -> dict[str, Any]:
    """Reads a file of ours or of rl_games as the dict that save() writes; nothing in it is executed, whoever wrote it,
    and a file of which any bit has changed since is refused. In a file that holds a model only, epoch and frame become
    0 and the optimizer None."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a hostile file makes torch say
            content = read(file)
        check_plain(content)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: not loaded, {error.strerror or error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: not loaded, {error}") from None
    except Exception as error:  # what a damaged or foreign file raises depends on which of its bytes is wrong
        raise CheckpointError(f"{path}: not loaded, it is damaged or not a checkpoint") from error
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError(f"{path}: not loaded, it has no model as rl_games writes it")
    empty = {"epoch": 0, "frame": 0, "optimizer": None, "last_mean_rewards": -1e9, "env_state": None, "ppo_state": {}}
    content = {**empty, "assymetric_vf_nets": None, "assymetric_vf_optimizer": None, **content}
    if type(content["ppo_state"]) not in (dict, OrderedDict):
        raise CheckpointError(f"{path}: not loaded, its ppo_state is a {type(content['ppo_state']).__name__}")
    for name, kind in (("epoch", int), ("frame", int), ("last_mean_rewards", float)):
        try:
            content[name] = number(content[name], kind)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise CheckpointError(f"{path}: not loaded, its {name} is a {type(content[name]).__name__}") from None
    for name in ("epoch", "frame"):
        if not 0 <= content[name] < 2**53:
            raise CheckpointError(f"{path}: not loaded, its {name} is no number of iterations or steps")
    if not abs(content["last_mean_rewards"]) < 1e300:
        raise CheckpointError(f"{path}: not loaded, its last_mean_rewards is not finite")
    for name in ("model", "assymetric_vf_nets"):
        if name == "model" or content[name] is not None:
            content[name] = {key: x.to(device) for key, x in tensors(content[name], path).items()}
    return content


def number(value: Any, kind: Callable[[float], Any] = float) -> Any:
    """`value` as a Python number: files of programs around rl_games hold tensors or NumPy's numbers instead. Raises
    TypeError, ValueError, OverflowError or RuntimeError if it is not a number."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError("not a number")
    if kind is int and not float(value).is_integer():
        raise ValueError("not a whole number")
    return kind(float(value))


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
    agent.load_state_dict(fitting(agent, content, path))


def fitting(agent: nn.Module, content: dict[str, Any], path: str | Path = "the checkpoint") -> dict[str, torch.Tensor]:
    """The agent's state that is in a checkpoint. CheckpointError says what does not fit."""
    (ours, critic), theirs, nets = split(agent.state_dict()), content["model"], content["assymetric_vf_nets"]
    compare(path, (ours, theirs), architecture, shapes, dtypes)
    if critic:
        if nets is None:
            raise CheckpointError(f"{path} does not fit: its critic sees what the policy sees, here it sees more")
        compare(path, (critic, nets), shapes, dtypes)
        theirs = {**theirs, **{key.replace("model.", "central_value.", 1): x for key, x in nets.items()}}
        statistics = [key for key in theirs if key.startswith("central_value.value_mean_std.")]
        theirs.update((key[len("central_value.") :], theirs.pop(key)) for key in statistics)
    check_finite(path, theirs)
    return theirs


def check_finite(path: str | Path, model: dict[str, torch.Tensor]) -> None:
    """Raises CheckpointError, one line that names the first tensor with values that no training can have produced."""
    for name, x in model.items():
        most = 40 if name.endswith(".sigma") else 1e15 if "mean_std." in name else 1e6
        if not (x.abs() <= most).all():
            raise CheckpointError(f"{path}: not loaded, its {name} is not finite, or larger than {most:g}")
        if name.endswith((".running_var", "mean_std.count")) and not (x > 0).all():
            raise CheckpointError(f"{path}: not loaded, its {name} is not more than 0")


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
    """A policy's architecture according to its tensors, mostly under PPOConfig's names."""
    layers = [x for key, x in model.items() if key.startswith("a2c_network.actor_mlp.") and x.dim() == 2]
    return {
        "observations": layers[0].shape[1] if layers else 0,
        "actions": model["a2c_network.sigma"].numel() if "a2c_network.sigma" in model else 0,
        "units": [len(x) for x in layers],
        "separate": any(key.startswith("a2c_network.critic_mlp.") for key in model),
        "normalize_input": "running_mean_std.count" in model,
        "normalize_value": "value_mean_std.count" in model,
    }


def network(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of PPOConfig that the network of a loaded file fixes. `activation` is among them only for files of
    ours: tensors do not reveal it."""
    said = architecture(content["model"])
    if not said["units"]:
        return {}  # not a policy, which is reported when it is loaded for use
    fields = {name: said[name] for name in ("units", "separate", "normalize_input", "normalize_value")}
    activation = content["ppo_state"].get("activation")
    return {**fields, "activation": activation} if isinstance(activation, str) else fields


def shapes(model: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {key: list(x.shape) for key, x in model.items()}


def dtypes(model: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {key: str(x.dtype).replace("torch.", "") for key, x in model.items()}


def load_optimizer(optimizer: Adam, content: dict[str, Any], path: str | Path = "the checkpoint") -> None:
    """Adam's moments and the learning rate, if the file has them; other options remain those of `optimizer`. Raises
    CheckpointError, one line that names `path`, if they do not fit."""
    if content["optimizer"] is None:
        return
    try:
        saved_group, state = content["optimizer"]["param_groups"][0], dict(content["optimizer"]["state"])
        critic = content["assymetric_vf_optimizer"]
        if critic is not None:
            first = len(saved_group["params"])
            state.update((first + i, moments) for i, moments in critic["state"].items())
        state = {i: checked_moments(moments, optimizer.param_groups[0]["params"][i]) for i, moments in state.items()}
        rate = number(saved_group["lr"])
        if not 0 <= rate <= 1:
            raise ValueError(f"its lr is {rate}, allowed is 0 to 1")
        optimizer.load_state_dict({"state": state, "param_groups": [{"lr": rate}]})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its optimizer does not fit its model ({error!r})") from error


def checked_moments(moments: dict[str, Any], parameter: torch.Tensor) -> dict[str, Any]:
    """A copy of Adam's moments of a parameter. Raises ValueError if they cannot be such."""
    step, first, second = (torch.as_tensor(moments[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    for moment in (first, second):
        if moment.shape != parameter.shape or moment.dtype != parameter.dtype:
            raise ValueError("sizes or types differ")
    if not (torch.isfinite(first).all() and torch.isfinite(second).all() and (second >= 0).all()):
        raise ValueError("its moments are not finite")
    if step.numel() != 1 or not 0 <= float(step) < 2**53:
        raise ValueError("its step is no number of updates")
    return {"step": step.float().reshape(()).clone(), "exp_avg": first.clone(), "exp_avg_sq": second.clone()}


# --- Reading a file --------------------------------------------------------------------------------------------------


def read(file: BinaryIO) -> Any:
    """Reads what torch.save has written. torch.load is not enough: it does not compare a member of the zip file with
    its checksum, trusts the sizes that a file claims, and calls constructors that a file may use to fill the memory.
    Here all that is read is in the file, byte by byte."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        if Reader(file, None).load() == 0x1950A86A20F9469CFC6C:  # what a file of torch 1.5 begins with
            raise CheckpointError("it is of torch's format before 1.6, in which damage cannot be told: save it anew")
        raise ValueError("neither a zip file nor a pickle")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        size = file.seek(0, os.SEEK_END)
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError("it is compressed, as torch never does")
        if sum(member.file_size for member in members) > size or len({x.filename for x in members}) < len(members):
            raise ValueError("members overlap")
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled[: -len("data.pkl")]
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder").decode() != sys.byteorder:
            raise CheckpointError(f"its numbers are not {sys.byteorder}-endian")
        with archive.open(pickled) as data:
            return Reader(data, lambda key: archive.read(f"{root}data/{key}")).load()


class Reader(pickle._Unpickler):  # type: ignore[name-defined]  # the one in Python: C's fills the memory if asked to
    """Reads the pickle in a checkpoint: plain data, and tensors and numbers of NumPy as torch.save and rl_games write
    them. Whatever else the file names is refused, not imported."""

    OPCODES = (
        "APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD EMPTY_DICT EMPTY_LIST "
        "EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWTRUE NONE PROTO REDUCE SETITEM SETITEMS STOP "
        "TUPLE TUPLE1 TUPLE2 TUPLE3"
    )
    dispatch = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in OPCODES.split()
    }  # type: ignore[attr-defined]

    def __init__(self, file: Any, member: Callable[[str], bytes] | None):
        super().__init__(file)
        self.member, self.storages = member, {}

    def find_class(self, module: str, name: str) -> Any:
        known: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "numpy.dtype": lambda code, *_: {"f4": "<f", "f8": "<d", "i4": "<i", "i8": "<q"}[code],
            "numpy.core.multiarray.scalar": lambda form, data: struct.unpack(form, data)[0],
            "_codecs.encode": lambda text, _: text.encode("latin1"),  # how pickle stores bytes
        }
        known["numpy._core.multiarray.scalar"] = known["numpy.core.multiarray.scalar"]  # NumPy 2's name of it
        known.update((f"torch.{storage}", dtype) for storage, dtype in DTYPES.items())
        if f"{module}.{name}" not in known:
            raise CheckpointError(f"it holds code or objects, not only data: {module}.{name}")
        return known[f"{module}.{name}"]

    def load_build(self) -> None:
        """Discards an object's state other than its data: the version of a state_dict, the byte order of a number."""
        state = self.stack.pop()  # pyright: ignore
        if isinstance(state, tuple) and ">" in state:
            raise CheckpointError("its numbers are big-endian")

    dispatch[pickle.BUILD[0]] = load_build  # pyright: ignore

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """A storage, which several tensors may share, as a tensor."""
        kind, dtype, key, _, size = pid
        if key not in self.storages:
            data = bytearray(self.member(key))  # type: ignore[misc]
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        if kind != "storage" or (self.storages[key].dtype, len(self.storages[key])) != (dtype, size):
            raise ValueError("not the memory it is said to be")
        return self.storages[key]

    @staticmethod
    def tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> torch.Tensor:
        tensor = storage.as_strided(size, stride, offset)  # raises RuntimeError beyond the memory's end
        if tensor.numel() > storage.numel():
            raise ValueError("larger than its memory")
        return tensor
