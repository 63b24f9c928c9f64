"""Our Adam is PyTorch's, without the compiler that PyTorch's imports."""

import subprocess
import sys

import pytest
import torch

from ppo.adam import Adam


def pair(weight_decay=0.0):
    """Two models of the same weights, each with its Adam; the last layer never gets a gradient."""
    torch.manual_seed(1)
    models = [torch.nn.Sequential(torch.nn.Linear(5, 9), torch.nn.ELU(), torch.nn.Linear(9, 2)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    unused = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    ours = Adam([*models[0].parameters(), unused[0]], torch.tensor(1e-2), weight_decay)
    theirs = torch.optim.Adam(
        [*models[1].parameters(), unused[1]], torch.tensor(1e-2), weight_decay=weight_decay, fused=True
    )
    return models, (ours, theirs)


def learn(models, optimizers, steps):
    for _ in range(steps):
        rows = torch.randn(20, 5)
        for model, optimizer in zip(models, optimizers):
            optimizer.zero_grad()
            model(rows).square().sum().backward()
            optimizer.step()


def assert_same(models, optimizers):
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    (ours, theirs) = (optimizer.state_dict() for optimizer in optimizers)
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)
    assert set(theirs["param_groups"][0]) <= set(ours["param_groups"][0])
    assert ours["param_groups"][0]["params"] == theirs["param_groups"][0]["params"]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_moves_as_pytorchs_does(weight_decay):
    models, optimizers = pair(weight_decay)
    learn(models, optimizers, 7)
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"].fill_(1e-3)
    learn(models, optimizers, 3)
    assert_same(models, optimizers)
    assert len(optimizers[0].state) == 4, "a parameter without a gradient has no moments"


def test_each_reads_what_the_other_wrote():
    models, (ours, theirs) = pair()
    learn(models, (ours, theirs), 3)
    saved, rate = theirs.state_dict(), ours.param_groups[0]["lr"]
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(saved)
    assert ours.param_groups[0]["lr"] is rate
    learn(models, (ours, theirs), 3)
    assert_same(models, (ours, theirs))


def test_one_gradient_by_hand():
    """The first step goes by the whole rate against the gradient's sign, whatever its size."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = Adam([weight], torch.tensor(0.25))
    weight.grad = torch.tensor([3.0, -0.01])
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([0.75, 1.25]), rtol=0, atol=1e-5)


def test_a_training_imports_no_compiler():
    code = """
import sys
from ppo.adam import Adam
import torch
weight = torch.nn.Parameter(torch.ones(3)); weight.grad = torch.ones(3)
Adam([weight], torch.tensor(0.1)).step()
torch.nn.utils.clip_grad_norm_([weight], 1.0)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
