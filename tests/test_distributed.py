"""Several ranks, each a process of its own, over Gloo."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import torch
import torch.multiprocessing
import yaml
from pendulums import Pendulums
from test_life import ENV, ROOT, TINY, finish, last, wait_for

import train_ppo
from ppo import checkpoint, distributed, ppo

pytestmark = pytest.mark.slow

TOTAL = 8  # environments, of all ranks


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(rank: int, port: int) -> dict:
    """What torchrun tells a process."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in names.items()}


# --- The arithmetic --------------------------------------------------------------------------------------------------


class Some(Pendulums):
    """Those of eight with the given numbers."""

    def __init__(self, index):
        super().__init__(len(index))
        self.index = torch.tensor(index)

    def reset(self, *, seed=None, options=None):
        self.seed = seed
        return super().reset(seed=seed)

    def statistics(self):
        """Known for one rank only, which has seen more episodes."""
        return {"episodes": 1.0 + 2 * self.index[0].item(), "success_rate": float(self.index[0] == 0), "overflow": 1.0}


def learn(rank: int, indices: list, port: int, folder: Path, changes: dict) -> None:
    """A training of five iterations, whose end is written to folder/rank.pt."""
    torch.set_num_threads(1)
    if len(indices) > 1:
        os.environ.update(environment(rank, port))
        distributed.start("cpu")
    env, noise, learners = Some(indices[rank]), torch.Generator().manual_seed(0), []
    # The noise in an action belongs to the environment, in whatever process it is.
    torch.randn_like = lambda x: torch.randn(TOTAL, *x.shape[1:], generator=noise)[env.index]

    class Seen(ppo.Learner):
        def __init__(self, *args):
            super().__init__(*args)
            learners.append(self)

    ppo.Learner = Seen
    cfg = ppo.PPOConfig(max_iterations=5, horizon_length=16, mini_epochs=2, units=(32, 16), save_best_after=1)
    enough = changes.pop("enough", None)
    for name, value in changes.items():
        setattr(cfg, name, value)
    metrics = ppo.train(env, cfg, folder / f"run_{rank}", lambda metrics: metrics["iteration"] == enough)
    end = {**learners[0].agent.state_dict(), "lr": learners[0].optimizer.param_groups[0]["lr"]}
    torch.save((end, metrics, env.seed), folder / f"{rank}.pt")
    distributed.stop()


def ranks(folder: Path, *indices: list, **changes) -> list:
    """What learn() wrote, of every rank. Each has the environments with its list of numbers."""
    folder.mkdir()
    torch.multiprocessing.spawn(learn, (indices, free_port(), folder, changes), nprocs=len(indices))
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(indices))]


@pytest.mark.parametrize(
    "changes", [{"num_minibatches": 1}, {"num_minibatches": 2, "schedule_type": "legacy"}], ids=str
)
def test_two_ranks_are_one_process_with_twice_the_environments(tmp_path, changes):
    """A minibatch is made of the same rows, if the environments of its part come from every rank."""
    halves = [[0, 1, 2, 3], [4, 5, 6, 7]] if changes["num_minibatches"] == 1 else [[0, 1, 4, 5], [2, 3, 6, 7]]
    ((alone, metrics, seed),) = ranks(tmp_path / "alone", list(range(TOTAL)), **changes)
    (first, metrics_0, seed_0), (second, metrics_1, seed_1) = ranks(tmp_path / "two", *halves, **changes)
    for name in first:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], alone[name], rtol=1e-6, atol=1e-6, msg=name)
    for name in ("a_loss", "c_loss", "entropy", "kl", "lr", "reward", "frames", "iteration"):
        assert metrics_0[name] == metrics_1[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-6), name
    assert metrics["frames"] == 5 * 16 * TOTAL
    assert (seed, seed_0, seed_1) == (42, 42, 46)
    others = halves[1][0]
    assert metrics_0["episodes"] == 2 + 2 * others and metrics_0["overflow"] == 2, "counts add up"
    assert metrics_0["success_rate"] == pytest.approx(1 / (2 + 2 * others)), "shares count by episodes"
    assert (tmp_path / "two" / "run_0" / "nn").is_dir() and not (tmp_path / "two" / "run_1").exists()


def test_statistics_of_their_own(tmp_path):
    """As in rl_games: equal weights all the same."""
    (first, *_), (second, *_) = ranks(tmp_path / "two", [0, 1, 2, 3], [4, 5, 6, 7], sync_statistics=False)
    different = {name for name in first if not torch.equal(first[name], second[name])}
    statistics = {name for name in first if "running" in name}
    assert different == {name for name in statistics if "count" not in name}
    assert torch.equal(first["lr"], second["lr"])


def test_what_is_enough_for_the_first_rank_ends_all(tmp_path):
    for _, metrics, _ in ranks(tmp_path / "two", [0, 1, 2, 3], [4, 5, 6, 7], enough=3):
        assert metrics["iteration"] == 3
    (saved,) = (tmp_path / "two" / "run_0" / "nn").glob("last_*_ep_3_*.pth")
    assert checkpoint.load(saved)["frame"] == 3 * 16 * TOTAL


# --- The command -----------------------------------------------------------------------------------------------------


def start(line: str, folder: Path, before: tuple = (), **more: str) -> subprocess.Popen:
    command = [sys.executable, *before, str(ROOT / "train_ppo.py"), *line.split()]
    return programs.start(command, folder, {**ENV, **more})


def both(line: str, folder: Path, **more: str) -> list:
    """Two ranks as a batch system starts them, without torchrun."""
    port = free_port()
    return [start(line, folder, **environment(rank, port), **more) for rank in (0, 1)]


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def test_a_signal_to_one_rank_stops_all_and_a_resume_goes_on(tmp_path):
    first, second = both(f"{TINY} --max-iterations 100000", tmp_path)
    wait_for("iteration 7/", first)
    second.send_signal(signal.SIGTERM)
    out = finish(first, 143)
    assert finish(second, 143) == ""
    assert "terminated, checkpoint saved; to go on: --checkpoint" in out.splitlines()[-1]
    (run,) = (tmp_path / "runs_all").iterdir()
    (saved,) = (run / "nn").glob("last_*.pth")
    done = checkpoint.load(saved)["epoch"]
    assert checkpoint.load(saved)["frame"] == done * 2 * 16 * 8
    out = finish(start(f"--checkpoint {saved} --max-iterations {done + 2}", tmp_path, TORCHRUN))
    assert f"resumed after iteration {done}: {saved}" in out
    resumed = (tmp_path / "runs" / "latest_train").resolve()
    assert checkpoint.load(last(resumed, done + 2))["frame"] == (done + 2) * 2 * 16 * 8
    assert len(list((tmp_path / "runs_all").iterdir())) == 2, "a folder for each run, not for each rank"


def test_a_signal_to_torchrun(tmp_path):
    process = start(f"{TINY} --max-iterations 100000", tmp_path, TORCHRUN)
    wait_for("iteration 3/", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert "terminated, checkpoint saved; to go on: --checkpoint" in out
    assert process.returncode  # torchrun's own: 1, or SIGABRT where one of its threads outlives its interpreter


def test_two_agents_that_meet_are_one_training(tmp_path):
    """As two machines of one rank each, here both on the loopback."""
    meet = f"--nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{free_port()} --rdzv-id=7"
    agent = ("-m", "torch.distributed.run", *meet.split())
    agents = [start(f"{TINY} --max-iterations 3", tmp_path, agent) for _ in range(2)]
    outs = [finish(process) for process in agents]
    assert sum("iteration 3/3" in out for out in outs) == 1, "only the first rank tells"
    (run,) = (tmp_path / "runs_all").iterdir()
    assert checkpoint.load(last(run, 3))["frame"] == 3 * 2 * 16 * 8


FAULTY = """
import os
from dexhand_gym.envs.base_task import BaseTask

class Faulty(BaseTask):
    def step(self, actions):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 20 and os.environ["RANK"] == "1":
            raise ArithmeticError("out of numbers")
        return super().step(actions)
"""


@pytest.fixture
def faulty(tmp_path):
    """A task whose second rank fails in its third iteration: options and variables of a command."""
    package = tmp_path / "package"
    info = package / "faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dexhand_gym.tasks]\nFaulty/Faulty-v0 = faulty:Faulty\n")
    (package / "faulty.py").write_text(FAULTY)
    line = f"{TINY} --max-iterations 100000".replace("BoxGrasping", "Faulty")
    return line, {"PYTHONPATH": f"{package}{os.pathsep}{ENV['PYTHONPATH']}"}


def test_a_rank_that_fails_ends_the_job_and_is_named(tmp_path, faulty):
    line, variables = faulty
    first, second = both(line, tmp_path, **variables)
    assert "rank 1: crashed in" in (out := finish(second, 1)) and "ArithmeticError: out of numbers" in out
    assert "rank 0: another rank is gone; its own message says why" in finish(first, 1)
    process = start(line, tmp_path, TORCHRUN, **variables)
    out, _ = process.communicate(timeout=300)
    assert "rank 1: crashed in" in out and "ArithmeticError: out of numbers" in out
    assert process.returncode


def test_mistakes_are_told_with_the_rank(tmp_path):
    for line, message in (
        ("--num-envs 0", "error: env.num_envs = 0"),
        ("--test --checkpoint {last}", "error: train.test = True: allowed is one process, without torchrun"),
    ):
        if "{last}" in line:
            finish(start(f"{TINY} --max-iterations 1", tmp_path))
            line = line.format(last="latest")
        out = finish(start(line, tmp_path, (), **environment(1, free_port())), 2)
        assert out.startswith(f"rank 1: {message}") and out.count("\n") == 1


def test_what_torch_distributed_launch_adds_is_not_an_option():
    assert train_ppo.configs.parse(["--local-rank=1", "--seed", "3"]) == train_ppo.configs.parse(["--seed", "3"])
    assert train_ppo.configs.parse(["--local_rank=1"]) == train_ppo.configs.parse([])


def test_config_of_the_run_has_what_was_asked_for(tmp_path):
    finish(start(f"{TINY} --max-iterations 1 --seed -1", tmp_path, TORCHRUN))
    (run,) = (tmp_path / "runs_all").iterdir()
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["env"]["num_envs"] == 16 and settings["env"]["device"] == "auto" and settings["train"]["seed"] >= 0
