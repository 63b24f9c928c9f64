"""This PPO against the real rl_games 1.6.5: same files, same numbers, same interface. Without rl_games these tests fail."""

import contextlib
import copy
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box
from pendulums import Pendulums
from rl_games.algos_torch.a2c_continuous import A2CAgent
from rl_games.algos_torch.players import PpoPlayerContinuous
from rl_games.common.algo_observer import AlgoObserver
from rl_games.common.tr_helpers import DefaultRewardsShaper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import configs
from dexhand_gym import rl_games
from dexhand_gym.rl_games import RlGamesVecEnv
from ppo import checkpoint, ppo
from ppo.rl_games_params import batch_fields, ppo_fields
from ppo.runner import Runner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning:rl_games"
    ),  # its own
]

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "rl_games.yaml"


def make_params(env, folder, **changes):
    """A config for both, with keys of every kind; `changes` by their last names."""
    params = yaml.safe_load(SAMPLE.read_text())["params"]
    params["network"]["mlp"]["units"] = changes.pop("units", [32, 16])
    params["network"]["separate"] = changes.pop("separate", False)
    params["config"].update(
        num_actors=env.num_envs,
        minibatch_size=env.num_envs * 16 // 4,
        reward_shaper={"scale_value": 0.5},
        entropy_coef=0.01,
        bounds_loss_coef=0.1,
        learning_rate="1e-3",
        kl_threshold=0.016,
        device="cpu",
        device_name="cpu",
        train_dir=str(folder),
        vec_env=RlGamesVecEnv(env),
        env_info=RlGamesVecEnv(env).get_env_info(),
        save_best_after=2,
        torch_compile=False,
    )
    params["config"].update(changes)
    return params


def stock(params, kind=A2CAgent, seed=42):
    """rl_games' trainer or player, made as its Runner makes them."""
    params = {**params, "config": {**params["config"], "features": {"observer": AlgoObserver()}}}
    params["config"]["reward_shaper"] = DefaultRewardsShaper(**params["config"]["reward_shaper"])
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        return kind("run", params) if kind is A2CAgent else kind(params)


def ours(params, env, seed=42):
    cfg = ppo.PPOConfig(**ppo_fields(params), **batch_fields(params, env.num_envs, 16))
    cfg.validate(env.num_envs)
    torch.manual_seed(seed)
    agent = ppo.Agent(env.single_observation_space, env.single_action_space, cfg)
    return cfg, agent, ppo.make_optimizer(agent, cfg)


def assert_close(a, b, name, tolerance=2e-5):
    """Relative to the tensor's largest number: the small ones are differences of large ones."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    assert a.shape == b.shape, name
    assert (a - b).abs().max() <= tolerance * b.abs().max(), (name, a, b)


VARIANTS = [
    {},
    {"schedule_type": "legacy"},
    {"clip_value": False},
    {"schedule_type": "legacy", "clip_value": False, "separate": True},
    {"separate": True, "units": [64, 48, 16], "minibatch_size": 128},
    {"minibatch_size": 16, "mini_epochs": 2, "units": [16]},
    {"normalize_input": False, "normalize_value": False, "normalize_advantage": False, "truncate_grads": False},
    {"lr_schedule": "linear", "max_epochs": 7, "weight_decay": 0.01, "bound_loss_type": "regularisation"},
    {
        "lr_schedule": "linear",
        "max_epochs": 3,
        "schedule_entropy": True,
        "entropy_coef": 0.5,
        "schedule_type": "legacy",
    },
    {"lr_schedule": "linear", "max_epochs": 3, "schedule_entropy": True, "entropy_coef": 0.5},
    {"schedule_entropy": True, "entropy_coef": 0.5},  # rl_games' adaptive rate leaves it as it is
    {"lr_schedule": None, "value_bootstrap": False, "reward_shaper": {}, "mixed_precision": True},  # no GPU: as without
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_one_update_on_the_same_rollout(tmp_path, changes):
    """Both begin with the same weights, to the bit, and learn twice from what rl_games has collected."""
    env = Pendulums()
    params = make_params(env, tmp_path, **changes)
    theirs = stock(params)
    cfg, agent, optimizer = ours(params, env)
    assert list(agent.state_dict()) == list(theirs.model.state_dict())
    assert all(torch.equal(x, theirs.model.state_dict()[key]) for key, x in agent.state_dict().items())
    for module in (agent, theirs.model):  # means beyond the bounds
        module.a2c_network.mu.weight.data.mul_(4.0)

    store = ppo.allocate_rollout(env.num_envs, 3, 2, cfg, torch.device("cpu"))
    learner = ppo.Learner(agent, optimizer, store, cfg)
    theirs.init_tensors()
    theirs.obs = theirs.env_reset()
    for epoch in (1, 2):
        theirs.update_epoch()
        *_, a_losses, c_losses, b_losses, entropies, kls, _, _ = theirs.train_epoch()
        recorded = theirs.experience_buffer.tensor_dict
        names = {"obs": "obses", "actions": "actions", "neglogp": "neglogpacs", "mu": "mus", "sigma": "sigmas"}
        for mine, other in {**names, "values": "values", "rewards": "rewards"}.items():
            x = getattr(store, mine)
            x.copy_(recorded[other].view_as(x))
        store.dones.copy_(torch.cat((recorded["dones"][1:], theirs.dones[None])))
        assert 0 < store.dones.sum() < store.dones.numel() / 3
        losses = learner.learn(agent.value(theirs.obs["obs"]), epoch)

        weights = theirs.model.state_dict()
        for key, x in agent.state_dict().items():
            assert_close(x, weights[key], key)
        for i, moments in theirs.optimizer.state_dict()["state"].items():
            for key, x in optimizer.state_dict()["state"][i].items():
                assert_close(x, moments[key], f"{key} of parameter {i}")
        means = [torch.stack(list(x)).mean() for x in (a_losses, c_losses, entropies, b_losses, kls)]
        for name, x, other in zip(ppo.LOSSES, losses, means):
            assert_close(x, other, name)
        assert_close(optimizer.param_groups[0]["lr"], theirs.optimizer.param_groups[0]["lr"], "learning rate")
    assert all(x != 0 for x in losses)
    if cfg.lr_schedule != "fixed":
        assert optimizer.param_groups[0]["lr"] != pytest.approx(cfg.learning_rate)


def curves(folder):
    events = EventAccumulator(str(folder / "summaries"))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("schedule", ["standard", "legacy"])
def test_ten_epochs_follow_the_same_curve(tmp_path, schedule):
    """From the seed on: weights, random actions, time-outs, episodes' means, learning rates, files."""
    env, seed = Pendulums(4), 7
    params = make_params(env, tmp_path, schedule_type=schedule, max_epochs=10, full_experiment_name="theirs")
    with contextlib.redirect_stdout(io.StringIO()) as stock_output:
        theirs = stock(params, seed=seed)
        theirs.train()
        theirs.writer.close()
        params["config"].update(full_experiment_name="ours")
        runner = Runner()
        runner.load({"params": {**params, "seed": seed}})
        runner.run({"train": True, "play": False, "checkpoint": None, "sigma": None})
    assert stock_output.getvalue().count("epoch: 10/10") == 2
    expected, got = curves(tmp_path / "theirs"), curves(tmp_path / "ours")
    for tag in ("a_loss", "c_loss", "entropy", "bounds_loss"):
        np.testing.assert_allclose(got[f"losses/{tag}"], expected[f"losses/{tag}"], rtol=1e-3, atol=1e-6, err_msg=tag)
    for tag in ("rewards/step", "episode_lengths/step", "info/kl"):
        assert len(expected[tag]) == 10
        np.testing.assert_allclose(got[tag], expected[tag], rtol=1e-3, err_msg=tag)
    assert len({round(x, 6) for x in got["rewards/step"]}) > 5

    (theirs,), (mine,) = ((tmp_path / run / "nn").glob("last_policy_ep_10_*") for run in ("theirs", "ours"))
    theirs, mine = checkpoint.load(theirs), checkpoint.load(mine)
    for key, x in mine["model"].items():
        assert_close(x, theirs["model"][key], key, tolerance=1e-3)
    assert (mine["epoch"], mine["frame"]) == (theirs["epoch"], theirs["frame"]) == (10, 10 * 16 * 4)
    assert mine["optimizer"]["param_groups"][0]["lr"] == pytest.approx(theirs["optimizer"]["param_groups"][0]["lr"])
    best = [checkpoint.load(tmp_path / run / "nn" / "policy.pth") for run in ("theirs", "ours")]
    assert best[0]["epoch"] == best[1]["epoch"]
    assert best[0]["last_mean_rewards"] == pytest.approx(best[1]["last_mean_rewards"], rel=1e-3)


def test_defaults_are_those_of_rl_games(tmp_path):
    env = Pendulums()
    params = make_params(env, tmp_path)
    for key in list(params["config"]):
        optional = (
            "normalize_value value_bootstrap truncate_grads schedule_type save_best_after save_frequency reward_shaper"
        )
        if key in optional.split():
            del params["config"][key]
    fields = ppo_fields(params)
    theirs = stock({**params, "config": {**params["config"], "reward_shaper": {}}})
    names = "normalize_value truncate_grads schedule_type weight_decay clip_actions bound_loss_type save_best_after"
    for name in names.split():
        assert fields[name] == getattr(theirs, name), name
    assert fields["save_frequency"] == theirs.save_freq
    assert fields["value_bootstrap"] == {True: "rl_games", False: "none"}[theirs.value_bootstrap]
    assert fields["reward_scale"] == theirs.rewards_shaper.scale_value
    assert fields["score_to_win"] == float("inf")


@pytest.mark.parametrize("score, last", [(0.5, 2), (1e9, 6)])
def test_training_ends_where_rl_games_ends(tmp_path, score, last):
    """score_to_win counts from save_best_after (2) on; max_frames is 6 epochs."""
    env = Pendulums(4)
    params = make_params(env, tmp_path, score_to_win=score, max_epochs=-1, max_frames=6 * 64)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = stock(params)
        theirs.train()
        metrics = []
        runner = Runner(metrics.append)
        runner.load({"params": params})
        runner.run({"train": True, "play": False})
    assert metrics[-1]["iteration"] == theirs.epoch_num == last


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def train_stock(params, epochs: int):
    """The file that rl_games writes at the end of a training."""
    config = {**params["config"], "max_epochs": epochs, "full_experiment_name": "theirs"}
    with contextlib.redirect_stdout(io.StringIO()):
        agent = stock({**params, "config": config})
        agent.train()
    (path,) = Path(config["train_dir"]).glob(f"theirs/nn/last_policy_ep_{epochs}_*.pth")
    return path


def train_ours(params, epochs: int, **args):
    config = {**params["config"], "max_epochs": epochs, "full_experiment_name": "ours"}
    runner = Runner()
    runner.load({"params": {**params, "config": config}})
    with contextlib.redirect_stdout(io.StringIO()):
        runner.run({"train": True, "play": False, **args})
    (path,) = Path(config["train_dir"]).glob(f"ours/nn/last_policy_ep_{epochs}_*.pth")
    return path


def players(params, path):
    """Ours and rl_games', of one checkpoint."""
    runner = Runner()
    runner.load({"params": params})
    mine, theirs = runner.create_player(), stock(params, PpoPlayerContinuous)
    mine.restore(path)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.restore(str(path))
    theirs.has_batch_dimension = True
    return mine, theirs


def assert_same_actions(mine, theirs):
    obs = 3 * torch.randn(50, 3)
    expected = theirs.get_action(obs, is_deterministic=True)
    torch.testing.assert_close(mine.get_action(obs, is_deterministic=True), expected, rtol=1e-6, atol=1e-6)
    assert expected.std() > 0.01


@pytest.mark.parametrize("separate", [False, True])
def test_our_checkpoint_in_rl_games(tmp_path, separate):
    params = make_params(Pendulums(), tmp_path, separate=separate)
    path = train_ours(params, epochs=3)
    assert_same_actions(*players(params, path))
    agent, saved = stock(params, seed=1), checkpoint.load(path)
    with contextlib.redirect_stdout(io.StringIO()):
        agent.restore(str(path))
    assert (agent.epoch_num, agent.frame) == (3, 3 * 16 * 8)
    assert agent.optimizer.param_groups[0]["lr"] == saved["optimizer"]["param_groups"][0]["lr"]
    for i, moments in agent.optimizer.state_dict()["state"].items():
        assert torch.equal(moments["exp_avg_sq"], saved["optimizer"]["state"][i]["exp_avg_sq"])
    agent.max_epochs = 5
    with contextlib.redirect_stdout(io.StringIO()):
        agent.train()
    assert agent.epoch_num == 5


def as_saved_on_gpu(content, path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(content, path)
    with pytest.raises(RuntimeError, match="CUDA"):  # here there is none
        torch.load(path, weights_only=False)


@pytest.mark.parametrize("kind", ["plain", "compiled", "gpu"])
def test_their_checkpoint_in_ours(tmp_path, monkeypatch, kind):
    params = make_params(Pendulums(), tmp_path)
    written = path = train_stock(params, epochs=3)
    content = torch.load(path, weights_only=False)
    assert type(content["last_mean_rewards"]) is np.float32
    if kind == "compiled":
        content["model"] = {f"_orig_mod.{key}": x for key, x in content["model"].items()}
        torch.save(content, path := tmp_path / "compiled.pth")
    elif kind == "gpu" and not torch.cuda.is_available():
        as_saved_on_gpu(content, path := tmp_path / "gpu.pth", monkeypatch)
    mine, theirs = players(params, written)
    mine.restore(path)
    assert_same_actions(mine, theirs)
    went_on = checkpoint.load(train_ours(params, epochs=5, checkpoint=path))
    assert (went_on["epoch"], went_on["frame"]) == (5, 5 * 16 * 8)
    assert went_on["optimizer"]["state"][0]["step"] == content["optimizer"]["state"][0]["step"] + 2 * 4 * 4


def test_file_of_rl_games_161(tmp_path):
    """A sample, since 1.6.1 does not install here; its statistics of observations are made differently, not kept."""
    content = checkpoint.load(ROOT / "tests/data/rl_games_1.6.1.pth")
    cfg = ppo.PPOConfig(units=(32, 32), separate=False)
    agent = ppo.Agent(Box(-1, 1, (3,), np.float32), Box(-1, 1, (1,), np.float32), cfg)
    checkpoint.load_weights(agent, content)
    checkpoint.load_optimizer(ppo.make_optimizer(agent, cfg), content)
    assert content["epoch"] > 0


def test_ambiguous_and_incomplete_files(tmp_path):
    params = make_params(Pendulums(), tmp_path)
    content = checkpoint.load(train_ours(params, epochs=1))
    player, _ = players(params, next(tmp_path.glob("ours/nn/*.pth")))
    model = content["model"]
    key = "a2c_network.mu.bias"
    for name, broken, message in (
        ("twice", {**model, f"_orig_mod.{key}": model[key]}, "twice.pth: not loaded, it has tensors twice"),
        ("without", {k: x for k, x in model.items() if k != key}, f"it has {key} absent"),
        (
            "more",
            {**model, "a2c_network.rnn.weight": model[key]},
            "it has a2c_network.rnn.weight .*; here a2c_network.rnn.weight absent",
        ),
    ):
        torch.save({**content, "model": broken}, tmp_path / f"{name}.pth")
        with pytest.raises(checkpoint.CheckpointError, match=message):
            player.restore(tmp_path / f"{name}.pth")


# --- The Runner ------------------------------------------------------------------------------------------------------


def test_players_play_alike(tmp_path):
    env = Pendulums()
    params = make_params(env, tmp_path, player={"games_num": 20, "deterministic": True})
    path = train_ours(params, epochs=2)
    mine, theirs = players(params, path)
    averages = []
    for player in (mine, theirs):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            player.run()
        averages.append([float(x) for x in re.findall(r"av reward: (\S+) av steps: (\S+)", output.getvalue())[0]])
        assert re.search(r"^reward: \S+ steps: \S+$", output.getvalue(), re.MULTILINE)
    assert averages[0] == pytest.approx(averages[1], rel=1e-5)
    runner = Runner()
    runner.load({"params": params})
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runner.run({"train": False, "play": True, "checkpoint": path, "sigma": None})
    assert f"av reward: {averages[0][0]}" in output.getvalue()


def test_folders_are_those_of_rl_games(tmp_path):
    params = make_params(Pendulums(), tmp_path, max_epochs=1)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = stock(params)
        runner = Runner()
        runner.load({"params": params})
        runner.run({"train": True, "play": False, "checkpoint": "", "sigma": None})
    for folder in tmp_path.iterdir():
        assert re.fullmatch(r"policy_\d\d-\d\d-\d\d-\d\d", folder.name)
        assert {entry.name for entry in folder.iterdir()} == {"nn", "summaries"}
    assert Path(theirs.experiment_dir).parent == tmp_path


def test_sigma_is_overridden(tmp_path):
    params = make_params(Pendulums(), tmp_path)
    fresh = train_ours(params, epochs=1, sigma=-2)
    assert checkpoint.load(fresh)["model"]["a2c_network.sigma"].tolist() == pytest.approx([-2, -2], abs=0.1)
    went_on = train_ours(params, epochs=2, checkpoint=fresh, sigma=-3)
    assert checkpoint.load(went_on)["model"]["a2c_network.sigma"].tolist() == pytest.approx([-3, -3], abs=0.1)
    runner = Runner()
    runner.load({"params": params})
    player = runner.create_player()
    runner.create_player = lambda: player
    player.games_num = 1
    with contextlib.redirect_stdout(io.StringIO()):
        runner.run({"train": False, "play": True, "checkpoint": went_on, "sigma": -4})
    assert player.agent.a2c_network.sigma.tolist() == [-4, -4]


def test_environments_by_name():
    params = yaml.safe_load(SAMPLE.read_text())["params"]
    for name in ("BaseTask", "DexHand/BaseTask-v0", "dexhand_gym:DexHand/BaseTask-v0"):
        params["config"].update(env_name=name, num_actors=64, env_config={"episode_length": 7}, device="cpu")
        runner = Runner()
        runner.load({"params": copy.deepcopy(params)})
        player = runner.create_player()
        assert (player.env.num_envs, player.env.unwrapped.task.episode_length) == (64, 7)
        player.env.close()
    params["config"]["env_name"] = "BaseTusk"
    runner.load({"params": params})
    with pytest.raises(ValueError, match="env_name = 'BaseTusk': there is no such .*; did you mean BaseTask?"):
        runner.create_player()


def change(tree, key, value):
    *path, last = key.split(".")
    for name in path:
        tree = tree.setdefault(name, {})
    tree[last] = value
    if value is None:
        del tree[last]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("config.gama", 0.9, r"params: not supported are config.gama \(did you mean gamma\?\)$"),
        ("network.rnn.units", 64, r"params: not supported are recurrent networks \(network.rnn\)$"),
        (
            "config.central_value_config",
            {"minibatch_size": 8},
            r"not supported are a central value network of its own \(config.central_value_config\)$",
        ),
        ("config.ppo", False, r"params: not supported are config.ppo = False \(supported is True\)$"),
        ("algo.name", "sac", "params.algo.name = 'sac': supported is only PPO of continuous actions, 'a2c_continuous'"),
        (
            "network.mlp.initializer.name",
            "orthogonal",
            r"initialisers other than default \(network.mlp.init.*'orthogonal'\)",
        ),
        ("config.gamma", None, "params.config.gamma is missing"),
        ("config.lr_schedule", None, "params.config.lr_schedule is missing"),
        ("config.kl_threshold", None, "params.config.kl_threshold is missing"),
        ("config.minibatch_size", None, "params.config.minibatch_size is missing"),
        ("config.minibatch_size", 1000, "minibatch_size = 1000: 1000 rows; allowed is a divisor of .* = 4096"),
        ("config.num_actors", -1, "params.config.num_actors = -1: allowed is 1 or more"),
        ("config.horizon_length", 0, "params.config.horizon_length = 0: allowed is 1 or more"),
        ("config.gamma", "high", "params.config.gamma = 'high': allowed is a number"),
        ("config.mini_epochs", 2.5, "params.config.mini_epochs = 2.5: allowed is a whole number"),
        ("config.clip_value", "maybe", "params.config.clip_value = 'maybe': allowed is True or False"),
        ("network.mlp.units", "big", "params.network.mlp.units = 'big': allowed is a list of whole numbers"),
        ("network.mlp.activation", "softplus", "activation: unknown name 'softplus'; .* Allowed: elu"),
        (
            "config.schedule_type",
            "standard_epoch",
            "schedule_type: unknown name 'standard_epoch'; did you mean 'standard'. Allowed: legacy, standard",
        ),
        ("config.num_actors", "${....numEnvs}", "num_actors = .*: allowed is a value, not a reference for Hydra"),
    ],
)
def test_what_is_not_supported_is_named(key, value, message):
    params = yaml.safe_load(SAMPLE.read_text())["params"]
    change(params, key, value)
    with pytest.raises(ValueError, match=message) as error:
        Runner().load({"params": params})
    assert "\n" not in str(error.value)


def test_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "rl_games.md").read_text(), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code.replace("examples/rl_games.yaml", str(SAMPLE)))
    assert "epoch: 1/1 frames: 1024" in output.getvalue()
    assert len(list(tmp_path.glob("runs/policy_*/nn/last_policy_ep_1_*.pth"))) == 1


# --- The command line and the other direction ------------------------------------------------------------------------

ISAAC = {
    "seed": "${...seed}",
    "load_checkpoint": "${if:${...checkpoint},True,False}",
    "config.name": "${resolve_default:MyTask,${....experiment}}",
    "config.full_experiment_name": "${.name}",
    "config.env_name": "rlgpu",
    "config.num_actors": "${....task.env.numEnvs}",
    "config.max_epochs": "${resolve_default:500,${....max_iterations}}",
    "config.score_to_win": 20000,
    "config.seq_len": 4,
    "config.minibatch_size": 32,
}
"""What a file for Isaac Gym's Hydra has in the place of values."""


def test_train_config_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load(SAMPLE.read_text())
    for key, value in ISAAC.items():
        change(tree["params"], key, value)
    Path("MyTaskPPO.yaml").write_text(yaml.safe_dump(tree))
    for line in (
        "task=BoxGrasping numEnvs=64 train=MyTaskPPO",
        "--task BoxGrasping --num-envs 64 --train-config MyTaskPPO.yaml",
    ):
        cfg = configs.parse(line.split())
        assert (cfg.task_name, cfg.env.num_envs, cfg.train.seed, cfg.train.name) == ("BoxGrasping", 64, 42, "MyTask")
        assert (cfg.train.max_iterations, cfg.train.score_to_win, cfg.train.num_minibatches) == (500, 20000, 32)
        assert (cfg.train.learning_rate, cfg.train.value_bootstrap, cfg.train.reward_scale) == (3e-4, "rl_games", 1.0)
        assert (cfg.train.units, cfg.train.separate) == ((256, 128, 64), False)
    cfg = configs.parse(
        [
            "train=MyTaskPPO",
            "task=BaseTask",
            "numEnvs=32",
            "maxIter=7",
            "--train.gamma",
            "0.9",
            "--train.horizon-length",
            "8",
        ]
    )
    assert (cfg.task_name, cfg.train.max_iterations, cfg.train.gamma) == ("BaseTask", 7, 0.9)
    assert cfg.train.num_minibatches == 32 * 8 // 32
    assert configs.parse(["--train-config", str(SAMPLE)]).env.num_envs == 256
    assert (
        configs.parse(
            f"--test --checkpoint {ROOT}/tests/data/rl_games_1.6.1.pth --num-envs 3 --task BaseTask train=MyTaskPPO".split()
        ).env.num_envs
        == 3
    )
    for line, message in (
        ("train=Other", "train_config = 'Other.yaml': No such file"),
        ("task=BaseTask train=MyTaskPPO numEnvs=3 --train.horizon-length 3", "minibatch_size = 32.* = 9"),
        ("task=BaseTask train=MyTaskPPO numEnvs=many", "env.num_envs = 'many': allowed is a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            configs.parse(line.split())


def run(*command, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rl_games_trains_base_task_and_checkpoints_go_there_and_back(tmp_path):
    """Ours trains one epoch, rl_games two more from its checkpoint, ours tests the result."""
    common = ("--task", "BaseTask", "--num-envs", 64, "--device", "cpu", "--train-config", SAMPLE)
    run(ROOT / "train_ppo.py", *common, "--max-iterations", 1, cwd=tmp_path)
    (first,) = tmp_path.glob("runs_all/BaseTask_train_*/nn/last_policy_ep_1_*.pth")
    output = run(
        ROOT / "examples" / "train_with_rl_games.py", *common, "--max-epochs", 3, "--checkpoint", first, cwd=tmp_path
    )
    assert "epoch: 2/3" in output and "epoch: 3/3" in output
    (second,) = tmp_path.glob("runs/policy_*/nn/last_policy_ep_3_*.pth")
    tags = curves(second.parent.parent)
    assert len(tags["reward/height_safety"]) == 2
    assert all(np.isfinite(x).all() for x in tags.values())
    test = ("--test", "--checkpoint", second, "--train.test-episodes", 64, "--task.episode-length", 10)
    output = run(ROOT / "train_ppo.py", *common, *test, cwd=tmp_path)
    assert "64 episodes without exploration" in output


def test_rl_games_trains_with_a_critic_that_sees_more(tmp_path):
    """Two epochs of BoxGrasping with rl_games' central value network; our tester plays what it has learned."""
    tree = yaml.safe_load(SAMPLE.read_text())
    config = tree["params"]["config"]
    mlp = {"units": [32, 32], "activation": "elu", "initializer": {"name": "default"}}
    network = {"name": "actor_critic", "central_value": True, "mlp": mlp}
    names = ("normalize_input", "learning_rate", "clip_value", "minibatch_size", "mini_epochs")
    config.update(env_name="BoxGrasping", minibatch_size=256, save_best_after=0)
    config["central_value_config"] = {**{name: config[name] for name in names}, "network": network}
    (tmp_path / "central.yaml").write_text(yaml.safe_dump(tree))
    common = ("--task", "BoxGrasping", "--num-envs", 32, "--device", "cpu")
    flags = ("--train-config", "central.yaml", "--max-epochs", 2)
    output = run(ROOT / "examples" / "train_with_rl_games.py", *common, *flags, cwd=tmp_path)
    assert "epoch: 2/2" in output
    (file,) = tmp_path.glob("runs/policy_*/nn/last_policy_ep_2_*.pth")
    assert checkpoint.load(file)["assymetric_vf_nets"]["model.a2c_network.actor_mlp.0.weight"].shape[1] > 115
    test = ("--test", "--checkpoint", file, "--train.test-episodes", 32, "--task.episode-length", 10)
    output = run(ROOT / "train_ppo.py", *common, *test, cwd=tmp_path)
    assert "32 episodes without exploration" in output


def test_same_seed_same_curve_on_the_real_task(tmp_path):
    """The benchmark, short: both Runners from the same YAML, by the task's name."""
    flags = (
        "--num-envs",
        16,
        "--epochs",
        4,
        "--seeds",
        1,
        "--device",
        "cpu",
        "--json",
        "curves.json",
        "--picture",
        "a.png",
    )
    run(ROOT / "benchmarks" / "rl_games_parity.py", *flags, cwd=tmp_path)
    (ours,), (theirs,) = json.loads((tmp_path / "curves.json").read_text()).values()
    assert len(ours["rewards"]) == 4
    assert ours["rewards"] == pytest.approx(theirs["rewards"], rel=1e-4)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_adapter_bootstraps_and_restarts():
    """Time-outs are told, observations after them are the next episode's, the last ones are there for who wants them."""
    env, again = (rl_games.make("BoxGrasping", 4, seed=3, episode_length=5, device="cpu") for _ in range(2))
    boxes = []
    for vec_env in (env, again, env):
        vec_env.reset()
        boxes.append(vec_env.env.observations()["object_pos"])
    assert torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[0], boxes[2])  # the seed is for the first reset
    for step in range(1, 6):
        obs, reward, done, infos = env.step(torch.zeros(4, 18))
        assert done.tolist() == infos["time_outs"].tolist() == [step == 5] * 4
        assert reward.shape == (4,) and "episode" not in infos
    assert not torch.allclose(obs["obs"], infos["final_obs"])
    spaces = env.get_env_info()
    assert spaces["observation_space"].shape == obs["obs"].shape[1:]
    assert spaces["state_space"].shape == obs["states"].shape[1:]
    for vec_env in (env, again):
        vec_env.env.close()
