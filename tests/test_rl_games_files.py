"""Files and scripts as people have them for rl_games, Isaac Gym and Isaac Lab: what is taken, and what is said of the rest."""

import contextlib
import copy
import io
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box
from pendulums import Pendulums
from rl_games.torch_runner import Runner as StockRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import configs
from dexhand_gym.rl_games import RlGamesVecEnv
from ppo import checkpoint, ppo
from ppo.rl_games_params import ppo_fields, read_params
from ppo.runner import IVecEnvAdapter, Runner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = yaml.safe_load((ROOT / "examples" / "rl_games.yaml").read_text())


def sample(**changes):
    """The tree of a file: that of the examples, changed at keys such as config__gamma; None takes a key out."""
    tree = copy.deepcopy(SAMPLE)
    for key, value in changes.items():
        *path, last = key.split("__")
        section = tree["params"]
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
        if value is None:
            del section[last]
    return tree


def write(name, tree):
    Path(name).write_text(yaml.safe_dump(tree))


def parse(line):
    return configs.parse(line.split())


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- Files that are taken --------------------------------------------------------------------------------------------


def test_file_of_isaac_lab(caplog):
    tree = sample(
        env={"clip_observations": 5.0, "clip_actions": 1.0, "obs_groups": {"obs": ["policy"]}},
        config__num_actors=-1,
        config__mixed_precision=True,
        config__env_name="rlgpu",
        config__device_name="cuda:0",
        config__minibatch_size=32,
        load_path="",
    )
    write("lab.yaml", {**tree, "pbt": {"enabled": False}})
    cfg = parse("--train-config lab.yaml --task BaseTask --num-envs 64")
    assert (cfg.env.num_envs, cfg.train.num_minibatches, cfg.train.mixed_precision) == (64, 32, True)
    assert "params.env.clip_observations = 5.0 is left aside" in caplog.text
    caplog.clear()
    write("lab.yaml", sample(env={"clip_observations": "a"}))
    with pytest.raises(ValueError, match="params.env.clip_observations = 'a': allowed is a number"):
        parse("--train-config lab.yaml --task BaseTask")
    write("lab.yaml", sample(env={"clip_observations": math.inf}, config__num_actors=-1))
    assert parse("--train-config lab.yaml --device cpu").env.num_envs == configs.EnvConfig.num_envs
    assert not caplog.text
    with pytest.raises(ValueError, match=r"params.config.num_actors = -1: allowed is 1 or more"):
        Runner().load(tree)  # there it is the script that says it


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("config.num_actors", [8], "a whole number"),
        ("config.num_actors", "many", "a whole number"),
        ("config.device", ["cpu"], "a word"),
        ("config.full_experiment_name", {}, "a word"),
        ("config.env_name", 5, "a word"),
        ("config.env_config", 5, "names and values"),
        ("config.value_bootstrap", "no", "True or False"),
        ("config.print_stats", "no", "True or False"),
        ("config.player.games_num", "two", "a whole number"),
        ("config.player.deterministic", 2, "True or False"),
    ],
)
def test_values_of_another_type(key, value, allowed):
    tree = sample(**{key.replace(".", "__"): value})
    write("typed.yaml", tree)
    message = re.escape(f"params.{key} = {value!r}: allowed is {allowed}")
    for load in (lambda: Runner().load(tree), lambda: parse("--train-config typed.yaml --task BaseTask")):
        with pytest.raises(ValueError, match=message):
            load()


@pytest.mark.parametrize("tree", [None, [], "params", {"params": 5}])
def test_what_is_no_file_of_rl_games(tree):
    with pytest.raises(ValueError, match="params is missing"):
        Runner().load(tree)


def test_file_of_the_original():
    """It leaves to its own command line what ours says too."""
    tree = sample(
        seed="${train.seed}",
        load_path="${train.checkpoint}",
        config__name="${task.name}",
        config__full_experiment_name="${.name}",
        config__env_name="rlgpu_dexhand",
        config__multi_gpu="${....multi_gpu}",
        config__num_actors="${env.numEnvs}",
        config__max_epochs="${train.maxIterations}",
        config__minibatch_size=32,
        config__use_tensorboard=True,
        config__log_interval="${train.logging.logInterval}",
    )
    write("BaseTaskPPO.yaml", tree)
    cfg = parse("train=BaseTaskPPO task=BoxGrasping env.numEnvs=64 train.maxIterations=7 train.seed=3")
    assert (cfg.task_name, cfg.env.num_envs, cfg.train.max_iterations, cfg.train.seed) == ("BoxGrasping", 64, 7, 3)
    assert (cfg.train.name, cfg.train.horizon_length) == ("policy", 16)
    assert parse("train=BaseTaskPPO").task_name == "BaseTask"


def test_what_isaac_gym_adds_to_its_files():
    added = {"population_based_training": False, "pbt_idx": None, "full_experiment_name": None, "device": "cpu"}
    summaries = {"defer_summaries_sec": 5, "summaries_interval_sec_min": 5, "summaries_interval_sec_max": 300}
    tree = sample(config__max_frames="10_000_000_000", config__player={}, config__reward_shaper={})
    tree["params"]["config"].update(added, **summaries)
    runner = Runner()
    runner.load(tree)
    assert (runner.seed, runner.params["config"]["pbt_idx"]) == (42, None)
    runner.load_config(tree["params"])
    assert runner.cfg.max_iterations == 100


def test_options_of_an_initialiser_that_is_default_change_nothing():
    tree = sample(network__mlp__initializer={"name": "default", "scale": 2})
    assert ppo_fields(tree["params"]) == ppo_fields(sample()["params"])


@pytest.mark.parametrize("self_", [[], ["_self_"]])
def test_a_file_above_others(self_):
    """Hydra's list of the files below it."""
    write("Base.yaml", sample(config__num_actors="${....task.env.numEnvs}"))
    write("Middle.yaml", {"defaults": ["Base"], "params": {"config": {"gamma": 0.9, "tau": 0.8}}})
    write("Top.yaml", {"defaults": ["Middle", *self_], "params": {"config": {"tau": 0.7, "num_actors": 64}}})
    params = read_params(Path("Top.yaml"))
    assert (params["config"]["gamma"], params["config"]["tau"], params["config"]["num_actors"]) == (0.9, 0.7, 64)
    assert params["network"]["mlp"]["units"] == [256, 128, 64]
    for defaults, message in (
        (["Top"], "Top is there already"),
        ([{"task": "Ant"}], "allowed are names of files beside it"),
        (["../Base"], "allowed are names of files beside it"),
        (["Other"], "train_config = 'Other.yaml': No such file"),
    ):
        write("Top.yaml", {"defaults": defaults, "params": {}})
        with pytest.raises(ValueError, match=message) as error:
            read_params(Path("Top.yaml"))
        assert "\n" not in str(error.value)


# --- Files that are not ----------------------------------------------------------------------------------------------


def test_another_algorithm_is_all_that_is_said():
    params = {
        "algo": {"name": "sac"},
        "network": {"name": "soft_actor_critic", "space": {"continuous": None}, "log_std_bounds": [-5, 2]},
        "config": {"alpha_lr": 0.005, "num_actors": "${....task.env.numEnvs}"},
    }
    write("AntSAC.yaml", {"params": params})
    with pytest.raises(
        ValueError, match=r"^params.algo.name = 'sac': supported is only PPO of continuous actions, '\w+'$"
    ):
        parse("train=AntSAC")


def test_all_that_is_not_supported_is_said_at_once():
    central = {"minibatch_size": 64, "network": {"name": "actor_critic", "rnn": {"name": "lstm"}}}
    tree = sample(
        network__rnn={"name": "lstm", "units": 64},
        network__inputs={"goal": {}},
        network__space__continuous__fixed_sigma=False,
        config__central_value_config=central,
        config__reward_shaper={"scale_value": 1, "log_val": True, "min_val": -1},
        config__use_smooth_clamp=True,
        config__learning_rat=1e-3,
        config__something=1,
    )
    write("all.yaml", tree)
    expected = (
        "params: not supported are reward shaping other than by scale_value (config.reward_shaper.log_val = True, "
        "config.reward_shaper.min_val = -1); recurrent networks (network.rnn); observations of several parts (network.inputs); a standard deviation that depends on the "
        "observation (network.space.continuous.fixed_sigma = False); a central value network of its own "
        "(config.central_value_config); config.use_smooth_clamp = True (supported is False); config.learning_rat (did you "
        "mean learning_rate?); config.something"
    )
    for load in (lambda: Runner().load(tree), lambda: parse("--train-config all.yaml --task BaseTask")):
        with pytest.raises(ValueError, match="params") as error:
            load()
        assert sorted(re.split("; | are ", str(error.value))) == sorted(re.split("; | are ", expected))


def test_all_that_is_missing_is_said_at_once():
    tree = sample(config__gamma=None, config__kl_threshold=None, model__name=None)
    with pytest.raises(
        ValueError, match=r"^params.model.name, params.config.gamma, params.config.kl_threshold are missing; "
    ):
        Runner().load(tree)


@pytest.mark.parametrize("name", ["gamma", "minibatch_size"])
def test_a_reference_that_no_command_line_resolves(name):
    write("a.yaml", sample(**{f"config__{name}": "${.other}"}))
    with pytest.raises(
        ValueError, match=rf"params.config.{name} = '\${{.other}}': allowed is a value, not a reference"
    ):
        parse("--train-config a.yaml --task BaseTask")


@pytest.mark.parametrize(
    "name",
    ["BaseTusk", "rlgpu"],
)
def test_a_name_that_is_no_task(name):
    write("a.yaml", sample(config__env_name=name))
    with pytest.raises(ValueError, match=rf"params.config.env_name \(or say --task\): unknown name '{name}'.*BaseTask"):
        parse("--train-config a.yaml")
    assert parse("--train-config a.yaml --task BoxGrasping").task_name == "BoxGrasping"


def test_a_task_that_is_not_the_checkpoints():
    write("a.yaml", sample(config__env_name="BaseTask"))
    shipped = Path(configs.__file__).parent / "dexhand_gym" / "pretrained" / "BoxGrasping" / "v0"
    line = f"--test --checkpoint {shipped} --num-envs 64 --train-config a.yaml"
    with pytest.raises(
        ValueError, match="env_name = 'BaseTask': the checkpoint is a policy of BoxGrasping, allowed is that"
    ):
        parse(line)
    assert parse(f"{line} --task BoxGrasping").task_name == "BoxGrasping"
    write("a.yaml", sample(config__env_name="BoxGrasping"))
    assert parse(line).task_name == "BoxGrasping"


# --- A script of Isaac Gym's kind, with its import swapped ------------------------------------------------------------

SCRIPT = '''
import torch
from rl_games.algos_torch import model_builder
from rl_games.common import env_configurations, vecenv
from rl_games.common.algo_observer import AlgoObserver, IsaacAlgoObserver
from {module} import Runner


class GpuEnv(vecenv.IVecEnv):
    """Pendulums as Isaac Gym's tasks come: reused buffers, time-outs and numbers to log in the infos."""

    def __init__(self, config_name, num_actors, **kwargs):
        self.env = env_configurations.configurations[config_name]["env_creator"](num_envs=num_actors, **kwargs)

    def reset(self):
        obs, _ = self.env.reset()
        return {{"obs": obs}}

    def step(self, actions):
        obs, reward, terminated, truncated, _ = self.env.step(actions)
        done = terminated | truncated
        infos = {{"time_outs": truncated, "height": float(obs[:, 0].mean()), "episode": {{"distance": obs[:, 1].norm()}}}}
        return {{"obs": obs}}, reward, done.long(), infos

    def set_train_info(self, env_frames, *args):
        train_info.append(env_frames)

    def get_env_info(self):
        return {{"action_space": self.env.single_action_space, "observation_space": self.env.single_observation_space}}


class Several(AlgoObserver):
    """Passes everything on, as Isaac Gym's MultiObserver."""

    def __init__(self, observers):
        self.observers = observers

    def before_init(self, base_name, config, experiment_name):
        calls.append(("before_init", base_name, config["name"], experiment_name))

    def after_init(self, algo):
        self.algo = algo
        calls.append(("after_init", algo.games_to_track, algo.num_actors, algo.horizon_length, str(algo.ppo_device)))
        for observer in self.observers:
            observer.after_init(algo)

    def process_infos(self, infos, done_indices):
        calls.append(("process_infos", done_indices.tolist()))
        for observer in self.observers:
            observer.process_infos(infos, done_indices)

    def after_steps(self):
        calls.append(("after_steps",))

    def after_print_stats(self, frame, epoch_num, total_time):
        calls.append(("after_print_stats", frame, epoch_num, total_time > 0, self.algo.epoch_num, self.algo.frame))
        for observer in self.observers:
            observer.after_print_stats(frame, epoch_num, total_time)


vecenv.register("SWINGING", lambda config_name, num_actors, **kwargs: GpuEnv(config_name, num_actors, **kwargs))
env_configurations.register("swing", {{"vecenv_type": "SWINGING", "env_creator": lambda **kwargs: make_env(**kwargs)}})

observer = Several([IsaacAlgoObserver()])
runner = Runner(observer)
runner.algo_factory.register_builder("amp_continuous", lambda **kwargs: None)
runner.player_factory.register_builder("amp_continuous", lambda **kwargs: None)
model_builder.register_model("continuous_amp", lambda network, **kwargs: None)
runner.load(tree)
runner.reset()
assert (runner.seed, runner.params["config"]["env_name"]) == (42, "swing")
runner.run({{"train": True, "play": False, "checkpoint": None, "sigma": None}})
observer.algo.writer.close()
'''


def run_script(module, tree):
    """Calls of its observer, frames that its environment was told, and its curves."""

    def make_env(num_envs, seed):
        assert seed == 42
        return Pendulums(num_envs)

    names = {"tree": copy.deepcopy(tree), "calls": [], "train_info": [], "make_env": make_env}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(SCRIPT.format(module=module), names)
    curves = {}
    for folder in Path(tree["params"]["config"]["train_dir"]).glob("*/summaries/**/"):
        events = EventAccumulator(str(folder))
        events.Reload()
        curves.update({tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]})
    return names["calls"], names["train_info"], curves


def OldBox(box):
    """As old Gym's class, of which Gymnasium knows nothing."""
    return SimpleNamespace(low=box.low, high=box.high, shape=box.shape, dtype=box.dtype)


def test_a_script_runs_with_its_import_swapped():
    """The same average reward, the same calls of the observer, the same numbers from it."""
    results = []
    for module in ("rl_games.torch_runner", "ppo.runner"):
        tree = sample(torch_threads=0, network__mlp__units=[32, 16])
        tree["params"]["config"].update(
            env_name="swing",
            env_config={},
            num_actors=8,
            minibatch_size=32,
            max_epochs=4,
            save_best_after=1,
            device="cpu",
            device_name="cpu",
            torch_compile=False,
            train_dir=module,
            full_experiment_name="run",
            multi_gpu=False,
            population_based_training=False,
            pbt_idx=None,
        )
        results.append(run_script(module, tree))
    (their_calls, their_frames, theirs), (our_calls, our_frames, ours) = results
    assert our_calls == their_calls
    assert [call[0] for call in our_calls].count("process_infos") == 4 * 16
    assert our_frames[:4] == their_frames == [0, 128, 256, 384]
    np.testing.assert_allclose(values(ours, "rewards/step"), values(theirs, "rewards/step"), rtol=1e-4)
    for tag in ("Episode/distance", "height/frame", "height/iter"):
        np.testing.assert_allclose(ours[tag], theirs[tag], rtol=1e-4)


def values(curves, tag):
    assert len(curves[tag]) == 4
    return [value for _, value in curves[tag]]


def pendulums(**changes):
    """A tree for eight of them."""
    tree = sample(network__mlp__units=[16])
    env = RlGamesVecEnv(Pendulums())
    tree["params"]["config"].update(num_actors=8, minibatch_size=64, max_epochs=1, device="cpu", train_dir="runs")
    tree["params"]["config"].update(vec_env=env, env_info=env.get_env_info(), full_experiment_name="run")
    tree["params"]["config"].update(changes)
    return tree


def train(tree, observer=None, **args):
    runner = Runner(observer)
    runner.load(tree)
    with contextlib.redirect_stdout(io.StringIO()):
        runner.run({"train": True, **args})
    return runner


def test_observers_may_lack_methods_or_be_functions():
    metrics, epochs = [], []
    train(pendulums(), metrics.append)
    assert metrics[0]["iteration"] == 1
    train(
        pendulums(max_epochs=2),
        SimpleNamespace(after_print_stats=lambda frame, epoch, time: epochs.append((frame, epoch))),
    )
    assert epochs == [(0, 1), (128, 2)]
    assert not Path("runs/run/summaries/observer").exists(), "which nobody has written to"
    with pytest.raises(ValueError, match="algo_observer = 3: allowed is an observer as rl_games has them, a function"):
        Runner(3)


def test_what_an_observer_cannot_ask_is_told():
    observer = SimpleNamespace(after_init=lambda algo: algo.central_value_net)
    with pytest.raises(AttributeError, match=r"algo.central_value_net: .* does not have that .*; there are .*writer"):
        train(pendulums(), observer)


def test_infos_of_our_environments_are_not_taken_for_scalars():
    seen = []
    tree = pendulums(vec_env=WithEpisodes())
    train(tree, SimpleNamespace(process_infos=lambda infos, done: seen.append((set(infos), done.shape[1]))))
    assert seen[0] == ({"final_obs", "_final_obs"}, 1)


class WithEpisodes(Pendulums):
    def step(self, actions):
        *others, info = super().step(actions)
        return (*others, {**info, "episode": {"r": torch.zeros(8)}, "_episode": torch.zeros(8)})


def test_builders_of_other_algorithms(caplog):
    runner = Runner()
    for factory in (runner.algo_factory, runner.player_factory, runner.model_builder.model_factory):
        factory.register_builder("amp_continuous", None)
    assert (
        caplog.messages
        == ["register_builder('amp_continuous'): it will not be used, here there is only a2c_continuous"] * 3
    )
    with pytest.raises(ValueError, match=r"register_builder\('a2c_continuous'\): allowed is another name"):
        runner.algo_factory.register_builder("a2c_continuous", None)


def test_spaces_of_the_old_gym():
    env = Pendulums()
    info = {"observation_space": OldBox(env.single_observation_space), "action_space": OldBox(env.single_action_space)}
    adapter = IVecEnvAdapter(RlGamesVecEnv(env), info, 8)
    assert adapter.single_action_space == env.single_action_space
    assert isinstance(adapter.single_observation_space, Box)


# --- Files of weights ------------------------------------------------------------------------------------------------


def test_mixed_precision_of_a_file_is_taken():
    tree = pendulums(mixed_precision=True)
    assert train(tree).cfg.mixed_precision


def test_numbers_of_other_types():
    """As programs around rl_games write them."""
    train(pendulums())
    (path,) = Path("runs/run/nn").glob("last_*.pth")
    content = torch.load(path, weights_only=False)
    changed = {"epoch": torch.tensor(1), "frame": np.int64(128), "last_mean_rewards": torch.tensor([0.5])}
    content["optimizer"]["param_groups"][0]["lr"] = torch.tensor(1e-3)
    torch.save({**content, **changed}, "other.pth")
    saved = checkpoint.load("other.pth")
    assert (saved["epoch"], saved["frame"], saved["last_mean_rewards"]) == (1, 128, 0.5)
    assert [type(saved[name]) for name in changed] == [int, int, float]
    assert train(pendulums(max_epochs=2), checkpoint="other.pth").algo.epoch_num == 2
    for name, value in (("epoch", torch.tensor(1.5)), ("last_mean_rewards", torch.zeros(2)), ("frame", "128")):
        torch.save({**content, name: value}, "other.pth")
        with pytest.raises(checkpoint.CheckpointError, match=f"its {name} is a"):
            checkpoint.load("other.pth")


def test_what_tensors_tell_of_a_network():
    file = checkpoint.load(ROOT / "tests/data/rl_games_1.6.1.pth")
    fields = {"units": [32, 32], "separate": False, "normalize_input": True, "normalize_value": True}
    assert checkpoint.network(file) == fields
    tree = pendulums(max_epochs=1)
    tree["params"]["network"]["separate"] = True
    train(tree)
    (path,) = Path("runs/run/nn").glob("last_*.pth")
    assert checkpoint.network(checkpoint.load(path)) == {**fields, "units": [16], "separate": True, "activation": "elu"}
    assert set(checkpoint.network(file)) < set(ppo.PPOConfig.__dataclass_fields__)


def test_the_network_of_a_file_without_a_run(caplog):
    """Shared layers and their sizes follow from it, an activation does not: that is said."""
    line = f"--test --checkpoint {ROOT}/tests/data/rl_games_1.6.1.pth"
    train = parse(line).train
    assert (train.units, train.separate, train.activation) == ((32, 32), False, "elu")
    assert "rl_games_1.6.1.pth does not say its activation: taken is elu (--train.activation)" in caplog.text
    caplog.clear()
    train = parse(f"{line} --train.activation relu --train.separate True").train
    assert (train.units, train.separate, train.activation) == ((32, 32), True, "relu")
    assert not caplog.text


def test_the_name_of_a_checkpoint_before_any_episode_has_ended():
    """As rl_games calls it."""
    tree = pendulums(horizon_length=2, minibatch_size=16, device_name="cpu", torch_compile=False)
    tree["params"]["torch_threads"] = 0
    tree["params"]["network"]["space"]["continuous"]["sigma_init"]["val"] = -5  # nobody falls
    names = []
    for make, folder in ((StockRunner, "theirs"), (Runner, "ours")):
        tree["params"]["config"]["full_experiment_name"] = folder
        runner = make()
        runner.load(tree)
        with contextlib.redirect_stdout(io.StringIO()):
            runner.run({"train": True, "play": False})
        names.append([path.name for path in Path(f"runs/{folder}/nn").glob("last_*")])
    assert names == [["last_policy_ep_1_rew_-inf.pth"]] * 2


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "a/../..", "."])
def test_a_run_stays_in_its_folder(name):
    with pytest.raises(ValueError, match="full_experiment_name = .*: allowed is a folder in train_dir"):
        train(pendulums(max_epochs=1, full_experiment_name=name))
    assert list(Path().iterdir()) == []
