"""Checkpoints: what is written is read back, rl_games' files are read, broken ones are refused in one line, and a crash
while writing leaves the old file as it was."""

import math
import os
import pickle
import random
import resource
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from test_ppo import PointMass, config

from ppo import checkpoint, ppo
from ppo.checkpoint import CheckpointError
from ppo.ppo import Agent, PPOConfig, make_optimizer, train

DATA = Path(__file__).parent / "data"
STOCK, COMPILED = DATA / "rl_games_1.6.5.pth", DATA / "rl_games_1.6.5_compiled.pth"


def trained(steps: int = 2, units=(32, 32)):
    """An agent of the size of the samples, after a few optimizer steps."""
    cfg = PPOConfig(units=units, separate=False)
    agent = Agent(Box(-1, 1, (3,), np.float32), Box(-1, 1, (1,), np.float32), cfg)
    optimizer = make_optimizer(agent, cfg)
    for _ in range(steps):
        optimizer.zero_grad()
        mu, _, value = agent(torch.randn(5, 3))
        (mu.sum() + value.sum() + agent.a2c_network.sigma.sum()).backward()
        optimizer.step()
    return agent, optimizer


def save(path, agent, optimizer, **more):
    checkpoint.save(path, agent, optimizer, epoch=7, frame=70, best_reward=-1.5, **more)


def same(a, b) -> bool:
    """Equality of nested dicts and lists, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


def test_round_trip(tmp_path):
    agent, optimizer = trained()
    optimizer.param_groups[0]["lr"].fill_(1e-4)
    save(
        tmp_path / "a.pth",
        agent,
        optimizer,
        env_state={"t": torch.arange(3)},
        ppo_state={"rng": [torch.get_rng_state()]},
    )
    content = checkpoint.load(tmp_path / "a.pth")
    assert (content["epoch"], content["frame"], content["last_mean_rewards"]) == (7, 70, -1.5)
    assert same(content["env_state"], {"t": torch.arange(3)})

    other, other_optimizer = trained(steps=1)
    rate = other_optimizer.param_groups[0]["lr"]
    checkpoint.load_weights(other, content)
    checkpoint.load_optimizer(other_optimizer, content)
    assert same(dict(other.state_dict()), dict(agent.state_dict()))
    assert same(other_optimizer.state_dict(), optimizer.state_dict())
    assert other_optimizer.param_groups[0]["lr"] is rate  # CUDA graphs know it by its address
    save(tmp_path / "b.pth", other, other_optimizer, env_state=content["env_state"], ppo_state=content["ppo_state"])
    assert same(checkpoint.load(tmp_path / "b.pth"), content)


def test_layout_is_that_of_rl_games(tmp_path):
    save(tmp_path / "a.pth", *trained())
    ours = torch.load(tmp_path / "a.pth", weights_only=True)  # plain torch, no stand-ins
    theirs = torch.load(COMPILED, weights_only=True)
    assert list(ours) == [*theirs, "ppo_state"]
    assert [f"_orig_mod.{key}" for key in ours["model"]] == list(theirs["model"])
    assert type(ours["last_mean_rewards"]) is float
    (group,), (their_group,) = ours["optimizer"]["param_groups"], theirs["optimizer"]["param_groups"]
    assert type(group["lr"]) is float
    for key in ("betas", "eps", "weight_decay", "amsgrad", "capturable", "fused", "params"):
        assert group[key] == their_group[key], key
    for i, moments in theirs["optimizer"]["state"].items():
        assert {key: (x.shape, x.dtype) for key, x in ours["optimizer"]["state"][i].items()} == {
            key: (x.shape, x.dtype) for key, x in moments.items()
        }


@pytest.mark.parametrize(
    "path, best, lr, model_sum, moment_sum",  # as plain torch.load(weights_only=False) reads them
    [
        (STOCK, -154.81834411621094, 0.01, 73768.83890848947, 1.3564797006256413),
        (COMPILED, -1000000000, 0.0010125, 6164.732763745486, 13.51132633177076),
    ],
)
def test_reads_rl_games(path, best, lr, model_sum, moment_sum):
    content = checkpoint.load(path)
    assert content["last_mean_rewards"] == best
    assert type(content["last_mean_rewards"]) in (int, float)
    agent, optimizer = trained(steps=0)
    checkpoint.load_weights(agent, content)
    checkpoint.load_optimizer(optimizer, content)
    assert sum(x.double().sum().item() for x in agent.state_dict().values()) == pytest.approx(model_sum, rel=1e-12)
    moments = [state["exp_avg"].double().abs().sum().item() for state in optimizer.state.values()]
    assert sum(moments) == pytest.approx(moment_sum, rel=1e-12)
    assert optimizer.param_groups[0]["lr"].item() == pytest.approx(lr)


def test_reading_leaves_no_permissions_behind():
    before = set(torch.serialization.get_safe_globals())
    checkpoint.load(STOCK)
    assert set(torch.serialization.get_safe_globals()) == before


def test_model_alone_is_enough(tmp_path):
    agent, _ = trained()
    torch.save({"model": agent.state_dict()}, tmp_path / "a.pth")
    content = checkpoint.load(tmp_path / "a.pth")
    assert (content["epoch"], content["optimizer"], content["ppo_state"]) == (0, None, {})
    checkpoint.load_optimizer(trained()[1], content)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_file_is_refused_and_not_executed(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Hostile()}, "zip.pth", pickle_protocol=protocol)
    Path("plain.pth").write_bytes(pickle.dumps({"model": Hostile()}, protocol))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match=f"{name}.* holds code or objects" if protocol == 2 else name):
            checkpoint.load(name)
    assert not Path("executed").exists()


def test_numpy_object_scalar_is_refused(tmp_path):
    torch.save({"model": {}, "last_mean_rewards": np.array([print], dtype=object)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not loaded"):
        checkpoint.load(tmp_path / "a.pth")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    save(tmp_path / "good.pth", *trained())
    data = (tmp_path / "good.pth").read_bytes()
    bad = {
        "cut": data[: len(data) // 2],
        "cut_late": data[:-10],
        "empty": b"",
        "text": b"model: yes\n",
        "no_pickle": b"PK\x03\x04" + data[4:200],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    torch.save([1, 2], tmp_path / "list")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "no_model")
    torch.save({"model": {"a": 1}}, tmp_path / "no_tensors")
    torch.save({"model": {}, "epoch": "7"}, tmp_path / "no_number")
    for name in (*bad, "list", "no_model", "no_tensors", "no_number", "."):
        with pytest.raises(CheckpointError) as error:
            checkpoint.load(tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        checkpoint.load(tmp_path / "absent.pth")


def test_other_network_is_named():
    content = checkpoint.load(STOCK)
    agent, optimizer = trained(units=(32, 16))
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"a.pth does not fit: it has units \[32, 32\]; here units \[32, 16\]"):
        checkpoint.load_weights(agent, content, "a.pth")
    assert same(before, dict(agent.state_dict()))
    with pytest.raises(CheckpointError, match="optimizer does not fit"):
        checkpoint.load_optimizer(optimizer, content)
    del content["model"]["running_mean_std.running_var"]
    message = r"does not fit: it has running_mean_std.running_var absent; here running_mean_std.running_var \[3\]"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_weights(trained()[0], content)


@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "os.replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "a.pth"
    save(path, *trained())
    before = path.read_bytes()
    written = torch.save

    def crash(*args):
        if moment == "torch.save":  # half of it is on the disk already
            written(*args)
            args[1].truncate(100)
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(moment, crash)
        with pytest.raises(OSError, match="disk full"):
            save(path, *trained(steps=1))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


def test_a_resume_sweeps_what_a_killed_process_has_left(tmp_path):
    orphan = tmp_path / "a" / "nn" / checkpoint.TEMPORARY_NAME
    train(PointMass(), config(max_iterations=1), tmp_path / "a")
    orphan.write_bytes(b"half a checkpoint")
    (saved,) = orphan.parent.glob("last_*")
    train(PointMass(), config(max_iterations=2), tmp_path / "b", checkpoint=saved)
    assert orphan.exists(), "somebody may be writing it"
    os.utime(orphan, (0, 0))
    train(PointMass(), config(max_iterations=2), tmp_path / "c", checkpoint=saved)
    assert not orphan.exists()


def test_what_a_killed_process_left_is_swept_up(tmp_path):
    (tmp_path / checkpoint.TEMPORARY_NAME).write_bytes(b"half a checkpoint")
    save(tmp_path / "a.pth", *trained())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


def test_state_that_could_not_be_read_back_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoint.env_state.a\[1\] is a <class 'numpy.ndarray'>"):
        save(tmp_path / "a.pth", *trained(), env_state={"a": [1, np.zeros(3)]})
    assert not list(tmp_path.iterdir())


def last(run: Path, epoch: int) -> Path:
    (path,) = (run / "nn").glob(f"last_policy_ep_{epoch}_*.pth")
    return path


def test_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path):
    straight = train(PointMass(), config(max_iterations=6), tmp_path / "straight")
    train(PointMass(), config(max_iterations=3), tmp_path / "first")
    torch.randn(5)  # what else the new process did must not matter
    resumed = train(PointMass(), config(max_iterations=6), tmp_path / "second", checkpoint=last(tmp_path / "first", 3))
    for name in straight:
        if "second" not in name:  # durations
            assert straight[name] == resumed[name], name
    expected, got = (checkpoint.load(last(tmp_path / run, 6)) for run in ("straight", "second"))
    assert same(expected, got)


def test_a_fixed_rate_is_the_one_that_is_asked_for_though_the_file_has_another(tmp_path):
    """As in rl_games. A linear training ends at 1e-6, with which nothing would be learned any more."""
    train(PointMass(), config(lr_schedule="linear", learning_rate=1e-3), tmp_path / "a")
    fixed = config(lr_schedule="fixed", learning_rate=2e-5, max_iterations=4)
    train(PointMass(), fixed, tmp_path / "b", checkpoint=last(tmp_path / "a", 3))
    rates = [
        checkpoint.load(last(tmp_path / run, n))["optimizer"]["param_groups"][0]["lr"]
        for run, n in (("a", 3), ("b", 4))
    ]
    assert rates == pytest.approx([1e-6, 2e-5])


def test_a_rate_that_may_not_be_so_high_any_more_is_not_even_for_one_step(tmp_path, monkeypatch):
    train(PointMass(), config(lr_schedule="adaptive", kl_threshold=1000.0, learning_rate=5e-4), tmp_path / "a")
    path = last(tmp_path / "a", 3)
    assert checkpoint.load(path)["optimizer"]["param_groups"][0]["lr"] > 5e-3
    stepped, step = [], ppo.minibatch_step

    def noted(agent, optimizer, *more):
        stepped.append(optimizer.param_groups[0]["lr"].item())
        return step(agent, optimizer, *more)

    monkeypatch.setattr(ppo, "minibatch_step", noted)
    for schedule in ("adaptive_linear", "linear"):
        stepped.clear()
        cfg = config(lr_schedule=schedule, kl_threshold=1000.0, learning_rate=5e-4, max_iterations=6)
        train(PointMass(), cfg, tmp_path / schedule, checkpoint=path)
        assert stepped[0] == pytest.approx(2.5e-4, rel=1e-2)  # three of six iterations are left
        assert max(stepped) <= stepped[0]


def test_resume_with_another_number_of_environments(tmp_path, caplog):
    train(PointMass(), config(), tmp_path / "a")
    metrics = train(PointMass(32), config(max_iterations=4), tmp_path / "b", checkpoint=last(tmp_path / "a", 3))
    assert (metrics["iteration"], metrics["frames"]) == (4, 3 * 16 * 64 + 16 * 32)
    assert "begin new episodes: the checkpoint has the state of 64, here are 32" in caplog.text


def test_resume_that_makes_no_sense(tmp_path):
    train(PointMass(), config(), tmp_path / "a")
    path = last(tmp_path / "a", 3)
    with pytest.raises(ValueError, match="max_iterations = 3: allowed is more than"):
        train(PointMass(), config(), tmp_path / "b", checkpoint=path)
    with pytest.raises(CheckpointError, match="does not fit: activation is 'elu', here 'tanh'"):
        train(PointMass(), config(activation="tanh", max_iterations=9), tmp_path / "b", checkpoint=path)
    assert not (tmp_path / "b").exists()


def test_old_periodic_checkpoints_go(tmp_path):
    def run(folder, **changes):
        train(PointMass(8), config(max_iterations=5, save_frequency=1, **changes), tmp_path / folder)
        return {path.name.split("_rew")[0] for path in (tmp_path / folder / "nn").iterdir()}

    epochs = [f"last_policy_ep_{epoch}" for epoch in range(1, 6)]
    assert run("all") == {"policy.pth", *epochs}
    assert run("two", keep_checkpoints=2) == {"policy.pth", *epochs[3:]}
    (tmp_path / "one" / "nn").mkdir(parents=True)
    (tmp_path / "one" / "nn" / "last_policy_ep_4_rew_x.pth").touch()  # of another process
    assert run("one", keep_checkpoints=1, save_best_after=9) == {epochs[3], epochs[4]}


def test_the_best_checkpoint_is_small(tmp_path):
    """It may be written at every iteration: the state of the environments is in the periodic ones."""
    train(PointMass(), config(), tmp_path)
    best, newest = checkpoint.load(tmp_path / "nn" / "policy.pth"), checkpoint.load(last(tmp_path, 3))
    assert best["env_state"] is None
    assert list(newest["env_state"]) == ["position", "time", "rng"]


# --- What damage and malice cost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [STOCK, None], ids=["rl_games", "ours"])
def test_no_bit_can_flip_unseen(tmp_path, path):
    if path is None:
        save(path := tmp_path / "good.pth", *trained(), ppo_state={"activation": "elu", "rng": [torch.get_rng_state()]})
    good, data = checkpoint.load(path), path.read_bytes()
    position, refused = random.Random(0), 0
    for _ in range(200):
        flipped, bit = bytearray(data), position.randrange(8 * len(data))
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "a.pth").write_bytes(flipped)
        try:
            assert same(checkpoint.load(tmp_path / "a.pth"), good), f"bit {bit}"
        except CheckpointError:
            refused += 1
    assert refused > 100


def refused(path: Path, content=None) -> str:
    """The one line with which the file, or the `content` written to it, is not loaded."""
    if content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    message = str(error.value)
    assert message.isprintable() and len(message) < 1000 and path.name in message
    return message


def rewritten(path: Path, change=lambda name, data: data, compression=zipfile.ZIP_STORED) -> Path:
    """A checkpoint like any other, but for what `change` makes of its members."""
    save(path, *trained(steps=0))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))
    return path


def test_bombs_cost_nothing(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rewritten(path := tmp_path / "a.pth", lambda name, data: data)
    checkpoint.load(path)
    rewritten(path, lambda name, data: bytes(2**28) if name.endswith("data/0") else data, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    assert "it is compressed" in refused(path)

    nested = []
    for _ in range(60):
        nested = [nested, nested]
    model = trained(steps=0)[0].state_dict()
    assert "more than 1000000 values, or some nested" in refused(
        path, {"model": model, "ppo_state": {"activation": nested}}
    )

    one = torch.zeros(1)
    assert "is damaged" in refused(path, {"model": {"w": one.expand(10**12)}}), "a view far larger than its memory"
    reduce = b"\x80\x02}X\x05\x00\x00\x00modelcbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85Rs."
    rewritten(path, lambda name, data: reduce if name.endswith("data.pkl") else data)
    assert "it holds code or objects, not only data: builtins.bytearray" in refused(path)
    rewritten(path, lambda name, data: b"\x80\x02r\xff\xff\xff\xff." if name.endswith("data.pkl") else data)
    assert "is damaged" in refused(path), "a memo that C's unpickler would make room for"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "KiB"


def test_memory_that_the_file_does_not_have_is_not_read(tmp_path):
    for change in (
        lambda name, data: data[:-4] if name.endswith("data/3") else data,
        lambda name, data: data + bytes(4) if name.endswith("data/3") else data,
        lambda name, data: b"big" if name.endswith("byteorder") else data,
    ):
        refused(rewritten(tmp_path / "a.pth", change))


def test_the_format_without_check_sums_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert "of torch's format before 1.6, in which damage cannot be told: save it anew" in refused(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": -5}, "its epoch is no number of iterations"),
        ({"epoch": 10**30}, "its epoch is no number of iterations"),
        ({"epoch": True}, "its epoch is a bool"),
        ({"frame": math.nan}, "its frame is a float"),
        ({"frame": -1}, "its frame is no number of"),
        ({"last_mean_rewards": math.nan}, "its last_mean_rewards is not finite"),
        ({"last_mean_rewards": False}, "its last_mean_rewards is a bool"),
        ({"ppo_state": [1]}, "its ppo_state is a list"),
        ({"ppo_state": {"a": {1, 2}}}, "it holds code or objects, not only data: "),
        ({"env_state": b"text"}, "is a <class 'bytes'>"),
        ({"env_state": {(1, 2): 3}}, "allowed are tensors, numbers, text"),
        ({"env_state": {"\x1b[31m\n" * 999: ()}, "epoch": "\x1b"}, "its epoch is a str"),
        ({"model": torch.zeros(3)}, "it has no model as rl_games writes it"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, change, message):
    assert message in refused(tmp_path / "a.pth", {"model": trained(steps=0)[0].state_dict(), **change})


WEIGHT = "a2c_network.mu.weight"


@pytest.mark.filterwarnings("ignore:.*quantized")
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            WEIGHT,
            lambda x: x.to_sparse(),
            "it holds code or objects, not only data: torch._utils._rebuild_sparse_tensor",
        ),
        (WEIGHT, lambda x: x.to("meta"), "not only data: torch._utils._rebuild_meta_tensor_no_storage"),
        (WEIGHT, lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "not only data: torch."),
        pytest.param(
            *(WEIGHT, lambda x: x.to(torch.uint16), "not only data: torch."),
            marks=pytest.mark.skipif(sys.version_info < (3, 9), reason="torch 2.4 cannot save such numbers"),
        ),
        (WEIGHT, lambda x: x.half(), f"does not fit: it has {WEIGHT} float16; here {WEIGHT} float32"),
        (WEIGHT, lambda x: x.double(), f"does not fit: it has {WEIGHT} float64; here {WEIGHT} float32"),
        (WEIGHT, lambda x: x.to(torch.complex64), f"does not fit: it has {WEIGHT} complex64; here"),
        (WEIGHT, lambda x: x.int(), f"does not fit: it has {WEIGHT} int32; here"),
        (WEIGHT, lambda x: x * math.nan, f"not loaded, its {WEIGHT} is not finite"),
        ("a2c_network.sigma", lambda x: x - math.inf, "not loaded, its a2c_network.sigma is not finite"),
        ("a2c_network.sigma", lambda x: x + 100, "its a2c_network.sigma is not finite, or larger than 40"),
        (WEIGHT, lambda x: x + 3e38, f"its {WEIGHT} is not finite, or larger than 1e+06"),
        ("running_mean_std.running_var", lambda x: x + 1e30, "running_var is not finite, or larger than 1e+15"),
        ("running_mean_std.running_mean", lambda x: x + math.inf, "its running_mean_std.running_mean is not finite"),
        ("running_mean_std.running_var", lambda x: x * 0, "its running_mean_std.running_var is not more than 0"),
        ("value_mean_std.running_var", lambda x: x * -1, "its value_mean_std.running_var is not more than 0"),
        ("running_mean_std.count", lambda x: x - 2, "its running_mean_std.count is not more than 0"),
    ],
)
def test_weights_that_are_none(tmp_path, name, change, message):
    agent, _ = trained(steps=0)
    before = {key: x.clone() for key, x in agent.state_dict().items()}
    torch.save({"model": {**before, name: change(before[name])}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_weights(agent, checkpoint.load(tmp_path / "a.pth"), "a.pth")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert same(before, dict(agent.state_dict()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exp_avg", torch.full((1,), math.nan)),
        ("exp_avg_sq", torch.full((1,), math.inf)),
        ("exp_avg_sq", torch.full((1,), -1.0)),
        ("exp_avg", torch.zeros(2)),
        ("exp_avg", torch.zeros(1).half()),
        ("exp_avg", 5),
        ("exp_avg", "text"),
        ("step", torch.tensor(math.nan)),
        ("step", -1),
        ("step", torch.zeros(2)),
        ("lr", 1e30),
        ("lr", math.nan),
        ("lr", True),
        ("lr", "1e-3"),
    ],
)
def test_moments_that_are_none(tmp_path, name, value):
    agent, optimizer = trained()
    save(tmp_path / "a.pth", agent, optimizer)
    content = checkpoint.load(tmp_path / "a.pth")
    place = content["optimizer"]["param_groups"][0] if name == "lr" else content["optimizer"]["state"][0]
    assert name in place
    place[name] = value
    before = {
        i: {key: x.clone() for key, x in moments.items()} for i, moments in optimizer.state_dict()["state"].items()
    }
    with pytest.raises(CheckpointError, match="a.pth: its optimizer does not fit its model"):
        checkpoint.load_optimizer(optimizer, content, "a.pth")
    assert same(before, optimizer.state_dict()["state"])


@pytest.mark.parametrize(
    "value", [torch.zeros(2).to_sparse(), torch.zeros(2).to("meta"), torch.zeros(2).to(torch.uint16)]
)
def test_tensors_that_could_not_be_read_back_are_not_written(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"checkpoint.env_state.a is a tensor \(.*\): allowed are dense ones"):
        save(tmp_path / "a.pth", *trained(), env_state={"a": value})
    assert not list(tmp_path.iterdir())


# --- The best policy of a training that goes on -----------------------------------------------------------------------


def test_a_training_that_goes_on_takes_its_best_policy_along(tmp_path):
    train(PointMass(), config(), tmp_path / "a")
    path = last(tmp_path / "a", 3)
    saved = checkpoint.load(path)
    saved["last_mean_rewards"] = 19.5  # more than anybody can earn
    torch.save(saved, path)
    train(PointMass(), config(max_iterations=4), tmp_path / "b", checkpoint=path)
    best = checkpoint.load(tmp_path / "a" / "nn" / "policy.pth")
    assert same(checkpoint.load(tmp_path / "b" / "nn" / "policy.pth"), best)
    assert checkpoint.load(last(tmp_path / "b", 4))["last_mean_rewards"] == 19.5

    for name, change in (("alone", None), ("later", {"epoch": 4}), ("other", {"model": {}}), ("damaged", None)):
        folder = tmp_path / name / "from" / "nn"
        folder.mkdir(parents=True)
        shutil.copy(path, folder)
        if change:
            torch.save({**best, **change}, folder / "policy.pth")
        if name == "damaged":
            (folder / "policy.pth").write_bytes(b"")
        train(PointMass(), config(max_iterations=4), tmp_path / name, checkpoint=folder / path.name)
        own = checkpoint.load(tmp_path / name / "nn" / "policy.pth")
        assert own["epoch"] == 4 and own["last_mean_rewards"] < 19.5, "the best of its own iterations"


@pytest.mark.parametrize(
    ("now", "changed"),
    [
        ("task_name: A\nsim: {dt: 0.01, threads: 8, warp: {njmax: 9}}\ntask: {reward: 1}\nenv: {num_envs: 9}", None),
        ("sim: {dt: 0.02}\ntask: {reward: 1}", "sim.dt"),
        ("sim: {dt: 0.02}\ntask: {reward: 2}", "sim.dt"),  # the first of two
        ("task: {reward: 2}", "task.reward"),
        ("sim: {dt: 0.02, physx: {a: 1}}", "sim.dt"),  # what only Isaac Gym reads comes last
        ("task_name: B", "task_name"),
        ("task: {news: 2}", None),  # of a later version: nothing is known of it
        ("not yaml: [", None),
    ],
)
def test_the_best_of_another_task_is_not_the_best_here(tmp_path, caplog, now, changed):
    """A policy that succeeds where it is easy was kept for ever, though it fails here."""
    caplog.set_level("INFO")
    before = "task_name: A\nsim: {dt: 0.01, threads: 2, warp: {njmax: 5}, physx: {a: 0}}\ntask: {reward: 1}\nenv: {num_envs: 8}"
    for run, text in (("a", before), ("b", now)):
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.yaml").write_text(text)
    train(PointMass(), config(), tmp_path / "a")
    path = last(tmp_path / "a", 3)
    saved = checkpoint.load(path)
    saved["last_mean_rewards"] = 19.5  # more than anybody can earn
    saved["ppo_state"]["means"] = [1e6, 5.0, 100]
    saved["ppo_state"]["success"] = [0.8, 1000, 0.9]
    torch.save(saved, path)
    metrics = train(PointMass(), config(max_iterations=4), tmp_path / "b", checkpoint=path)
    best = checkpoint.load(tmp_path / "b" / "nn" / "policy.pth")
    lines = [line for line in caplog.messages if "begin anew" in line]
    assert lines == ([f"{changed} is not what it was: means and the best policy begin anew"] if changed else [])
    assert best["epoch"] == (4 if changed else 3)
    assert (metrics["reward"] < 20) == bool(changed), "the mean stands for the episodes of this task alone"


def test_a_policy_alone_begins_a_training(tmp_path, caplog):
    caplog.set_level("INFO")
    train(PointMass(), config(), tmp_path / "a")
    content = checkpoint.load(last(tmp_path / "a", 3))
    weights = content["model"]["a2c_network.mu.weight"]
    torch.save({"model": content["model"], "epoch": 500, "ppo_state": {"activation": "elu"}}, tmp_path / "policy.pth")
    cfg = config(max_iterations=1, learning_rate=1e-9)
    metrics = train(PointMass(), cfg, tmp_path / "b", checkpoint=tmp_path / "policy.pth")
    assert metrics["iteration"] == 1
    line = f"a new training begins with the weights of {tmp_path / 'policy.pth'}, which holds a policy and no training"
    assert [record.getMessage() for record in caplog.records if "weights" in record.getMessage()] == [line]
    after = checkpoint.load(last(tmp_path / "b", 1))["model"]["a2c_network.mu.weight"]
    assert torch.allclose(weights, after, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("means", [1.0, 2.0, 101]),
        ("means", [math.nan, 2.0, 5]),
        ("means", [1.0, 2.0, 5.0]),
        ("means", ["1", 2.0, 5]),
        ("success", [2.0, 10, 0.5]),
        ("success", [0.5, 10, math.nan]),
        ("obs", torch.full((64, 2), math.nan)),
        ("obs", torch.zeros(64, 2).double()),
        ("episode", torch.zeros(2, 63)),
        ("episode", torch.zeros(2, 64).long()),
        ("rng", [torch.zeros(5056)]),
    ],
)
def test_what_a_resume_needs_and_cannot_be(tmp_path, name, value):
    train(PointMass(), config(), tmp_path / "a")
    content = checkpoint.load(path := last(tmp_path / "a", 3))
    content["ppo_state"][name] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="what a resume needs is damaged") as error:
        train(PointMass(), config(max_iterations=4), tmp_path / "b", checkpoint=path)
    assert len(str(error.value)) < 1000
    assert not (tmp_path / "b").exists()


def test_states_of_environments_that_cannot_be(tmp_path):
    train(PointMass(), config(), tmp_path / "a")
    good = checkpoint.load(path := last(tmp_path / "a", 3))
    for state in (
        None,
        [1],
        5,
        {**good["env_state"], "position": torch.zeros(64, 2, dtype=torch.complex64)},
        {"rng": "x"},
    ):
        torch.save({**good, "env_state": state}, path)
        with pytest.raises(CheckpointError, match="what a resume needs is damaged"):
            train(PointMass(), config(max_iterations=4), tmp_path / "b", checkpoint=path)


def test_a_full_disk_costs_a_line_for_each_checkpoint_and_not_the_training(tmp_path, caplog):
    done = []

    def logger(metrics):
        done.append(metrics["iteration"])
        if metrics["iteration"] == 1:  # from now on nothing can be saved
            (tmp_path / "nn").rmdir()
            (tmp_path / "nn").touch()
        if metrics["iteration"] == 3:
            (tmp_path / "nn").unlink()

    train(PointMass(8), config(max_iterations=4, save_frequency=1), tmp_path, logger)
    assert done == [1, 2, 3, 4]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [f"{tmp_path}/nn: not made, File exists; the training goes on"] * len(errors) != []
    assert last(tmp_path, 3) and last(tmp_path, 4)

    def logger(metrics):
        shutil.rmtree(tmp_path / "nn")
        (tmp_path / "nn").touch()

    with pytest.raises(checkpoint.SaveError, match=rf"^{tmp_path}/nn: not made, File exists$"):
        train(PointMass(8), config(max_iterations=1), tmp_path, logger)
