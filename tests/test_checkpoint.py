"""Checkpoints: what is written is read back, rl_games' files are read, broken ones are refused in one line, and a crash
while writing leaves the old file as it was."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from test_ppo import PointMass, config

from ppo import checkpoint
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
    assert optimizer.param_groups[0]["fused"]


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
