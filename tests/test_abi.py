"""What stood fast before the inside was rebuilt stands fast after it: observations, rewards and endings of every registered
id, as recorded on 2026-11-27, and with the physics of before what was recorded on that day before it was changed (see
CHANGELOG.md). `PYTHONPATH=. python tests/test_abi.py` records anew."""

import dataclasses
import shutil
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml

import configs
import dexhand_gym  # noqa: F401
import train_ppo
from dexhand_gym.envs import make_vec_env
from dexhand_gym.envs.box_grasping import BoxGrasping
from dexhand_gym.envs.config import Config
from ppo import checkpoint

pytestmark = pytest.mark.slow

IDS = ("DexHand/BaseTask-v0", "DexHand/BoxGrasping-v0", "DexHand/BlindGrasping-v0")
DATA = Path(__file__).parent / "data"
FILE = DATA / "abi.npz"
BEFORE = {"sim.dt": 0.01, "sim.substeps": 2, "decimation": 2, "sim.solver.iterations": 6}
STEPS = 60


def play(name: str, **fields) -> dict:
    """Random actions, through an end by time and restarts."""
    env = gymnasium.make_vec(name, num_envs=2, seed=7, episode_length=25, device="cpu", **fields)
    noise = torch.Generator().manual_seed(1)
    obs, _ = env.reset(seed=7)
    seen = {"obs": [obs], "final_obs": [], "reward": [], "ended": []}
    for _ in range(STEPS):
        actions = torch.rand(2, 18, generator=noise) * 2 - 1
        obs, reward, terminated, truncated, info = env.step(actions)
        seen["obs"].append(obs)
        seen["final_obs"].append(info["final_obs"])
        seen["reward"].append(reward)
        seen["ended"].append(torch.stack([terminated, truncated, *info["endings"].values()], 1))
    found = {key: torch.stack(rows).numpy() for key, rows in seen.items()}
    found["criteria"] = np.array(list(info["endings"]))
    found["terms"] = np.array(list(env.unwrapped.reward_weights))
    env.close()
    return found


@pytest.mark.parametrize(("fields", "file"), [({}, FILE), (BEFORE, DATA / "abi_5ms.npz")], ids=["now", "5 ms"])
@pytest.mark.parametrize("name", IDS)
def test_an_id_is_what_it_was(name, fields, file):
    """Within what the processors of two machines may round otherwise."""
    found, recorded = play(name, **fields), np.load(file)
    for key, value in found.items():
        was = recorded[f"{name}/{key}"]
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, was, rtol=1e-4, atol=1e-4, err_msg=key)
        else:
            np.testing.assert_array_equal(value, was, err_msg=key)
    assert found["ended"].any(1).any() and np.abs(found["reward"]).max() > 0.1


OLD = DATA / "run_20261127"


def test_a_run_of_before_goes_on_and_is_tested(tmp_path, monkeypatch):
    shutil.copytree(OLD, tmp_path / "runs_all" / OLD.name)
    monkeypatch.chdir(tmp_path)
    run = f"runs_all/{OLD.name}"
    assert train_ppo.main(f"--checkpoint {run} --max-iterations 7 --train.test-episodes 2".split()) == 0
    assert train_ppo.main(f"--test --checkpoint {run} --train.test-episodes 2 --render False".split()) == 0
    (saved,) = Path("runs/latest_train/nn").glob("last_policy_ep_7_*.pth")
    old, new = (checkpoint.load(file) for file in (*OLD.glob("nn/last_*.pth"), saved))
    assert {*old["env_state"]} ^ {*new["env_state"]} == {"prev_actions", "last_actions"}
    assert new["frame"] == old["frame"] + 2 * 8


def test_a_policy_of_another_task_is_told(caplog):
    configs.parse(["--test", "--checkpoint", str(OLD), "--task", "BaseTask"])
    assert "is a policy of BoxGrasping, not of BaseTask" in caplog.text


def test_a_config_of_before_is_read():
    cfg = configs.parse(["--config", str(OLD / "config.yaml")])
    assert (cfg.task_name, cfg.train.units, cfg.task.randomize.action_delay) == ("BoxGrasping", (16, 8), (0, 2))


OLDER = {"box_position_noise": 0.011, "hand_position_noise": 0.012, "hand_rotation_noise": 0.13, "finger_noise": 0.14}
NEWER = ["init_box_position_range", "init_hand_position_range", "init_hand_rotation_range", "init_finger_range"]


def test_older_names_are_read(tmp_path):
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({"task_name": "BlindGrasping", "task": OLDER}))
    options = [f"--task.{name.replace('_', '-')}={value}" for name, value in OLDER.items()]
    for argv in (["--config", str(tmp_path / "old.yaml")], ["--task", "BlindGrasping", *options]):
        task = configs.parse(argv).task
        assert [getattr(task, name) for name in NEWER] == [*OLDER.values()]
    keys = ["prev_actions", "dof_pos"]
    for prefix in ("", "task."):
        fields = {f"{prefix}{name}": value for name, value in OLDER.items()}
        env = make_vec_env(
            "dexhand_gym.envs.blind_grasping:BlindGrasping", 3, backend="none", policy_observation_keys=keys, **fields
        )
        assert [getattr(env.task, name) for name in NEWER] == [*OLDER.values()]
        actions = torch.rand(3, 18)
        assert torch.equal(env.step(actions)[4]["final_obs"][:, :18], actions)


def test_a_field_with_an_older_name_is_told():
    """It would do nothing, without a word."""

    @dataclasses.dataclass
    class Nearer(BoxGrasping.config):
        hand_position_noise: float = 0.0

    class FromNear(BoxGrasping):
        config = Nearer

    with pytest.raises(
        ValueError, match="task.hand_position_noise is an older name: allowed is init_hand_position_range"
    ):
        FromNear(Config(task=Nearer()))


if __name__ == "__main__":
    np.savez_compressed(FILE, **{f"{name}/{key}": value for name in IDS for key, value in play(name).items()})
    sys.exit(print(FILE))
