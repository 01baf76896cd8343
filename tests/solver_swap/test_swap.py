"""Swapping: what could not be solved is said, counted, and never taken for an answer."""
import math
import threading

import pytest
import torch
from torch import nn

from neuralode_resnet.datasets import load
from neuralode_resnet.models import NeuralODE, ODEBlock, member
from neuralode_resnet.solver_swap import predict, swap_grid, swapped, validity
from neuralode_resnet.solver_swap.swap import UNSOLVED


class Blow(nn.Module):
    def forward(self, t, z):
        return torch.where(z > 1, z**2 * 8, -z)


class Hiding(nn.Module):
    "A head that hides infinity."
    def forward(self, z):
        return z.nan_to_num(0.0, 1.0, -1.0)


def made(solver="euler@1/4", head=None, bad=(5,)):
    torch.manual_seed(0)
    x = torch.rand(400, 2) * 0.9
    for i in bad:
        x[i] = 3.0
    model = NeuralODE(ODEBlock(Blow(), solver), head or nn.Linear(2, 2))

    class Data:
        x_test, y_test = x, model(x).argmax(-1)

    return model, Data


@pytest.mark.parametrize("test_solver", ["rk4@1/32", "dopri5@1e-3", "bosh3@1e-4"])
@pytest.mark.parametrize("head", [None, Hiding()])
@pytest.mark.parametrize("bad", [(5,), (0, 399), tuple(range(0, 400, 10))])
def test_samples_that_run_away_mark_themselves(test_solver, head, bad):
    model, data = made(head=head, bad=bad)
    row = swap_grid(model, data, test_solver).iloc[0]
    assert row.unsolved == len(bad)
    assert 1 - len(bad) / 400 - 0.01 <= row.accuracy <= 1 - len(bad) / 400
    with swapped(model, test_solver):
        classes, steps, nfe = predict(model, data.x_test)
    assert (classes[0] == UNSOLVED).nonzero().flatten().tolist() == [*bad]
    assert math.isfinite(steps) and math.isfinite(nfe)


@pytest.mark.parametrize("test_solver", ["rk4@1/32", "dopri5@1e-3"])
def test_a_swap_that_fails_altogether_has_no_accuracy(test_solver):
    model, data = made(bad=range(400))
    row = swap_grid(model, data, [test_solver, "euler@1/4"]).iloc[0]
    assert math.isnan(row.accuracy) and math.isnan(row.agreement) and row.unsolved == 400
    found = validity(model, data.x_test, data.y_test, test_solver)
    assert not found.valid and found.unsolved == 400 and math.isnan(found.test_accuracy)


@pytest.mark.parametrize("solver", ["euler@1/4", "dopri5@1e-3"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_spoilt_input_is_counted_and_flips_nothing_else(solver, value):
    data = load("sphere2", seed=0)
    model, x = NeuralODE.for_data(data, solver, seed=0), data.x_test.clone()
    clean = validity(model, x, data.y_test, "rk4@1/8")
    x[3] = value
    found = validity(model, x, data.y_test, "rk4@1/8")
    assert found.unsolved == found.unsolved_own == found.undecided == 1
    assert abs(found.flips - clean.flips) <= 3
    assert abs(found.train_accuracy - clean.train_accuracy) <= 3e-3


def test_unsolved_samples_count_against_validity():
    model, data = made(bad=range(50))
    wrong = 1 - data.y_test  # wrong under the own solver, unsolved under the other: nothing is lost
    found = validity(model, data.x_test, wrong, "rk4@1/32")
    assert found.lost == 0 and found.unsolved == found.undecided == 50 and not found.valid
    assert validity(model, data.x_test, wrong, "rk4@1/32", threshold=0.2).valid


@pytest.mark.parametrize("solver", ["euler@1/4", "dopri5@1e-3", "rk4@1/8"])
def test_a_single_model_and_an_ensemble_of_one_agree(solver):
    data = load("sphere2", seed=0)
    x = data.x_test.clone()
    x[3], x[70] = math.nan, 1e30
    ensemble = NeuralODE.for_data(data, "euler@1/4", seed=[0])
    alone = member(ensemble, 0)

    class Data:
        x_test, y_test = x, data.y_test

    a, b = (swap_grid(model, Data, solver).iloc[0] for model in (ensemble, alone))
    for column in ("n_steps", "nfe", "accuracy", "agreement", "unsolved"):
        assert a[column] == pytest.approx(b[column], nan_ok=True)
    (v,), w = validity(ensemble, x, data.y_test, solver), validity(alone, x, data.y_test, solver)
    assert (v.flips, v.lost, v.won, v.unsolved, v.unsolved_own) == (w.flips, w.lost, w.won, w.unsolved, w.unsolved_own)


def test_overlapping_threads_swap_apart_and_leave_the_models_own_solver():
    model, data = made()
    barrier, seen = threading.Barrier(2), {}

    def work(name):
        with swapped(model, name):
            barrier.wait()
            predict(model, data.x_test)
            seen[name] = str(model.block.solver)
            barrier.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("rk4@1/8", "heun@1/16")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"rk4@1/8": "rk4@1/8", "heun@1/16": "heun@1/16"}
    assert str(model.block.solver) == "euler@1/4"


def test_a_mistake_of_the_caller_is_not_a_bad_sample():
    model, data = made()
    with pytest.raises(ValueError, match="longer than the interval"):
        swap_grid(model, data, "euler@2.0")
