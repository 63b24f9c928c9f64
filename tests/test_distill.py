"""A student that imitates a teacher which sees more."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml

import configs
import train_ppo
from ppo import checkpoint, distill, policy, ppo
from ppo.policy import Policy

SMALL = [
    "--task",
    "CubeRotation",
    "--device",
    "cpu",
    "--num-envs",
    "16",
    "--train.num-minibatches",
    "2",
    "--task.episode-length",
    "40",
]
QUICK = [*SMALL, "--train.horizon-length", "16", "--train.test-episodes", "4"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A training of one iteration: its policy does something, whatever it is."""
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train_ppo.main([*QUICK, "--max-iterations", "1", "--train.test-episodes", "0"]) == 0
    (run,) = (folder / "runs").glob("CubeRotation_train_*")
    return run.resolve()


def student(teacher, *words):
    flags = [*QUICK, "--train.teacher", str(teacher), "--task.observe", "touch", *words]
    return configs.parse(flags)


def test_it_does_what_its_teacher_does(teacher):
    """Blind, with what the joints and fingertips reported before; on states that it gets to itself."""
    cfg = student(teacher, "--task.observation-history", "1", "--max-iterations", "60", "--train.learning-rate", "2e-3")
    env = train_ppo.make_env(cfg)
    learner, progress = policy.begin(env, cfg.train, None)
    sees_more = distill.load_teacher(cfg.train.teacher, env.single_action_space, env.device)
    first = env.single_observation_space.shape[0]

    def off():
        rows = learner.store.obs.flatten(0, 1)
        wanted = sees_more.act_deterministic(rows[:, first : first + sees_more.obs_size]).clamp(-1, 1)
        return (learner.agent.act_deterministic(rows) - wanted).square().mean().item(), wanted.var(0).mean().item()

    metrics = [ppo.iterate(env, learner, progress) for _ in range(60)]
    assert metrics[-1]["a_loss"] < 0.2 * metrics[0]["a_loss"]
    found, spread = off()
    assert found < 0.4 * spread, "better than any fixed action"
    assert learner.agent.a2c_network.sigma.tolist() == [distill.SIGMA] * 12, "exploration stays"
    env.close()


def test_its_critic_learns_too(teacher):
    cfg = student(teacher)
    env = train_ppo.make_env(cfg)
    learner, progress = policy.begin(env, cfg.train, None)
    before = learner.agent.central_value.a2c_network["value"].weight.clone()
    ppo.iterate(env, learner, progress)
    assert not torch.equal(before, learner.agent.central_value.a2c_network["value"].weight)
    env.close()


def test_a_training_with_a_teacher_leaves_an_ordinary_policy(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        train_ppo.main([*QUICK, "--train.teacher", str(teacher), "--task.observe", "touch", "--max-iterations", "2"])
        == 0
    )
    (run,) = (tmp_path / "runs").glob("CubeRotation_train_*")
    said = yaml.safe_load((run / "config.yaml").read_text())
    assert said["task"]["policy_observation_keys"] == list(
        configs.parse([*SMALL, "--task.observe", "touch"]).task.policy_observation_keys
    )
    assert train_ppo.main(["--test", "--checkpoint", "latest", "--device", "cpu", "--render", "False"]) == 0
    # PPO goes on from it, with the critic that it has
    more = ["--checkpoint", "latest_train", "--max-iterations", "3", "--device", "cpu", "--train.test-episodes", "0"]
    assert configs.parse(more).train.teacher is None
    assert train_ppo.main(more) == 0


def test_what_the_teacher_saw_comes_first(teacher):
    cfg = student(teacher)
    seen = configs.parse(SMALL).task.policy_observation_keys
    assert cfg.task.critic_observation_keys[: len(seen)] == seen
    assert "episode_time" in cfg.task.critic_observation_keys[len(seen) :]
    assert cfg.train.sigma_init == distill.SIGMA
    assert student(teacher, "--train.sigma-init", "-1").train.sigma_init == -1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "BoxGrasping"], "train.teacher = .*: its task_name is CubeRotation, here BoxGrasping"),
        (["--task.policy-controls-base", "True"], "its task.policy_controls_base is False, here True"),
        (["--env.hand", "left"], "its env.hand is right, here left"),
        (["--task.max-finger-velocity", "1"], "its task.max_finger_velocity is 5.0, here 1.0"),
        (["--task.axis", "y"], "its task.axis is x, here y"),
        (["--task.decimation", "2"], "its task.decimation is 1, here 2"),
        (["--test", "--checkpoint", "TEACHER"], "a test has no teacher, allowed is None"),
        (["--train.teacher", "nowhere"], "^train.teacher = 'nowhere': no such file or run"),
        (
            ["--train.teacher", "pretrained:v9"],
            "^train.teacher: unknown name 'pretrained:v9'",
        ),
    ],
)
def test_mistakes_are_told(teacher, words, message):
    words = [str(teacher) if word == "TEACHER" else word for word in words]
    flags = ["--task", "CubeRotation", "--train.teacher", str(teacher), *words]
    with pytest.raises(ValueError, match=message):
        configs.parse(flags)


@pytest.mark.parametrize("name", ["entropy-coef", "bounds-loss-coef", "normalize-advantage"])
def test_what_says_nothing_to_a_student_is_told(teacher, name):
    value = {"normalize-advantage": "False"}.get(name, "0.3")
    field = name.replace("-", "_")
    with pytest.raises(ValueError, match=f"train.{field} = {value} does nothing next to train.teacher"):
        student(teacher, f"--train.{name}", value)


def altered(teacher, folder, change):
    """A copy of a run, whose config.yaml `change` has changed."""
    shutil.copytree(teacher, folder)
    said = yaml.safe_load((folder / "config.yaml").read_text())
    change(said)
    (folder / "config.yaml").write_text(yaml.safe_dump(said))
    return folder


def test_a_teacher_sees_what_its_run_says(teacher, tmp_path, monkeypatch, capsys):
    """One number more in its keys, and every column would be the next one's."""
    monkeypatch.chdir(tmp_path)
    run = altered(
        teacher, tmp_path / "shifted", lambda c: c["task"]["policy_observation_keys"].insert(0, "episode_time")
    )
    assert train_ppo.main([*QUICK, "--train.teacher", str(run), "--task.observe", "touch"]) == 2
    assert "it sees 66 numbers, its task.policy_observation_keys are 67" in capsys.readouterr().err
    run = altered(teacher, tmp_path / "none", lambda c: c["task"].update(policy_observation_keys=[]))
    with pytest.raises(ValueError, match=f"train.teacher = '{run}': nothing says what it sees"):
        student(run)


FIRST = "a2c_network.actor_mlp.0.weight"


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model.clear(),
        lambda model: model.update({FIRST: torch.zeros(())}),
        lambda model: model.update({FIRST: torch.zeros(3, 5)}),
        lambda model: model.pop(FIRST),
        lambda model: model.pop("a2c_network.sigma"),
        lambda model: model.update({"a2c_network.mu.weight": torch.zeros(3, 64)}),
    ],
)
def test_a_damaged_policy_is_no_teacher(teacher, tmp_path, monkeypatch, capsys, damage):
    monkeypatch.chdir(tmp_path)
    run = altered(teacher, tmp_path / "damaged", lambda c: None)
    content = torch.load(checkpoint_of(run), weights_only=True)
    damage(content["model"])
    torch.save(content, checkpoint_of(run))
    assert train_ppo.main([*QUICK, "--train.teacher", str(checkpoint_of(run)), "--task.observe", "touch"]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ") and str(checkpoint_of(run)) in told and "Error: " not in told and "\n" not in told


def test_a_teacher_is_named_as_it_was_said():
    with pytest.raises(ValueError, match="^train.teacher = 'pretrained:v0_touch': it has an observation_history"):
        configs.parse(["--task", "CubeRotation", "--train.teacher", "pretrained:v0_touch"])


def test_the_same_axis_in_other_words_is_the_same(teacher):
    assert student(teacher, "--task.axis", "1", "0", "0").task.axis == "x"


def test_a_student_that_goes_on_without_its_teacher_is_told_so(teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [*QUICK, "--train.teacher", str(teacher), "--task.observe", "touch", "--train.test-episodes", "0"]
    assert train_ppo.main([*flags, "--max-iterations", "1"]) == 0
    configs.parse(["--checkpoint", "latest", "--max-iterations", "3"])
    assert "from here on it learns from rewards" in capsys.readouterr().out


def test_a_policy_without_its_run_is_no_teacher(teacher, tmp_path):
    lonely = tmp_path / "policy.pth"
    lonely.write_bytes(next((teacher / "nn").glob("*.pth")).read_bytes())
    with pytest.raises(ValueError, match="nothing says what it sees"):
        configs.parse([*SMALL, "--train.teacher", str(lonely)])


def test_a_teacher_that_remembers_is_none(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [*QUICK, "--max-iterations", "1", "--train.test-episodes", "0", "--task.observation-history", "2"]
    assert train_ppo.main(flags) == 0
    with pytest.raises(ValueError, match="it has an observation_history"):
        configs.parse([*SMALL, "--train.teacher", "latest"])


def test_a_damaged_teacher_is_one_line_before_anything_is_written(teacher, tmp_path, monkeypatch, capsys):
    run = tmp_path / "theirs"
    (run / "nn").mkdir(parents=True)
    (run / "config.yaml").write_text((teacher / "config.yaml").read_text())
    (run / "nn" / "policy.pth").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    assert train_ppo.main([*QUICK, "--train.teacher", str(run / "nn" / "policy.pth")]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert not (tmp_path / "runs").exists()


def test_the_loaded_teacher_is_the_policy_that_was_saved(teacher):
    cfg = configs.parse([*SMALL, "--test", "--checkpoint", str(teacher)])
    env = train_ppo.make_env(cfg)
    as_tested = Policy(env, cfg.train, checkpoint_of(teacher)).agent
    as_teacher = distill.load_teacher(checkpoint_of(teacher), env.single_action_space, env.device)
    obs, _ = env.reset(seed=3)
    torch.testing.assert_close(as_teacher.act_deterministic(obs), as_tested.act_deterministic(obs), atol=0, rtol=0)
    assert checkpoint.load(checkpoint_of(teacher))["epoch"] == 1
    env.close()


def checkpoint_of(run):
    return next((run / "nn").glob("last_*.pth"))


def test_a_student_goes_on_to_the_bit(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [*QUICK, "--train.teacher", str(teacher), "--task.observe", "touch", "--train.test-episodes", "0"]
    for name, words in (
        ("straight", ["--max-iterations", "4"]),
        ("begun", ["--max-iterations", "4", "--train.save-frequency", "2"]),
    ):
        assert train_ppo.main([*flags, *words, "--train.experiment.name", name]) == 0
    (straight,), (begun,) = (list((tmp_path / "runs").glob(f"{name}*")) for name in ("straight", "begun"))
    (half,) = (begun / "nn").glob("last_policy_ep_2_*")
    assert train_ppo.main([*flags, "--checkpoint", str(half), "--train.experiment.name", "more"]) == 0
    (more,) = (tmp_path / "runs").glob("more*")
    ends = [checkpoint.load(next((run / "nn").glob("last_policy_ep_4_*")))["model"] for run in (straight, more)]
    assert all(torch.equal(x, ends[1][name]) for name, x in ends[0].items())


def test_a_shipped_teacher_is_that_of_the_students_task(teacher):
    cfg = configs.parse(["--checkpoint", str(teacher), "--max-iterations", "9", "--train.teacher", "pretrained:v0"])
    assert "CubeRotation/v0/" in str(cfg.train.teacher).replace("\\", "/")


def test_an_older_run_has_the_defaults_of_what_it_does_not_say(teacher, tmp_path):
    copy = tmp_path / "older"
    shutil.copytree(teacher, copy)
    said = yaml.safe_load((copy / "config.yaml").read_text())
    del said["env"]["hand"], said["task"]["wrist_range"]
    (copy / "config.yaml").write_text(yaml.safe_dump(said))
    assert configs.parse([*SMALL, "--train.teacher", str(copy)]).train.teacher
    with pytest.raises(ValueError, match="its env.hand is right, here left"):
        configs.parse([*SMALL, "--train.teacher", str(copy), "--env.hand", "left"])
