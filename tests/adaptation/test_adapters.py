"""The paper's decisions, by hand arithmetic, and adapters that go on where they were stopped."""
import math

import pytest
import torch
from torch import nn

from neuralode_resnet.adaptation import Measured, StepAdapter, ToleranceAdapter, checking_step, decide_step, decide_tol
from neuralode_resnet.datasets import load
from neuralode_resnet.models import NeuralODE, ODEBlock
from neuralode_resnet.training import fit

DATA = load("sphere2", seed=0)

STEP_DECISIONS = [  # h, differ, grown_differs -> the next h, decision (paper, §6, T = 1, 500 steps)
    (1/8, True, False, 1/16, "shrunk"),
    (1/8, True, True, 1/16, "shrunk"),
    (1., True, False, 1/2, "shrunk"),
    (1/250, True, False, 1/500, "shrunk"),
    (1/251, True, False, 1/500, "shrunk to max_steps"),
    (1/500, True, False, 1/500, "kept: max_steps"),
    (1/8, False, False, 1.1/8, "grown"),
    (1/8, False, True, 1/8, "kept: the enlarged step disagrees"),
    (1/1.05, False, False, 1., "grown to one step"),
    (1., False, False, 1., "kept: one step"),
    (1., False, True, 1., "kept: one step"),
]
TOL_DECISIONS = [  # tol, differ, grown_differs, unchanged -> the next tol, decision (supplement B, lowest 2e-8)
    (1e-3, True, False, False, 5e-4, "shrunk"),
    (1e-3, True, True, True, 5e-4, "shrunk"),
    (3e-8, True, False, False, 2e-8, "shrunk"),
    (2e-8, True, False, False, 2e-8, "kept: min_tol"),
    (1e-3, False, False, False, 1.1e-3, "grown"),
    (1e-3, False, True, False, 1e-3, "kept: the enlarged tolerance disagrees"),
    (1e-3, False, False, True, 1e-3, "kept: same evaluations for five checks"),
    (1e-3, False, True, True, 1e-3, "kept: same evaluations for five checks"),
]


def scripted(kind, script, solver, **options):
    "An adapter whose solves have these (right predictions of ten, evaluations)."
    class Scripted(kind):
        def measure(self, x, y, solvers):
            right, nfe = script.pop(0)
            classes = (torch.arange(10) < right).long()[None]
            return Measured(classes, [right / 10], [nfe], [solvers[0].n_steps() if self.fixed else 5])
    adapter = Scripted(NeuralODE.for_data(DATA, solver), check_every=1, **options)
    return adapter


ONES = torch.ones(10, dtype=torch.long)


@pytest.mark.parametrize("h, differ, grown_differs, expected, words", STEP_DECISIONS)
def test_a_step_follows_algorithm_2(h, differ, grown_differs, expected, words):
    found, decision = decide_step(h, differ, grown_differs)
    assert decision == words
    assert math.isclose(found, expected, rel_tol=1e-12)


@pytest.mark.parametrize("tol, differ, grown_differs, unchanged, expected, words", TOL_DECISIONS)
def test_a_tolerance_follows_algorithm_3(tol, differ, grown_differs, unchanged, expected, words):
    found, decision = decide_tol(tol, differ, grown_differs, unchanged, lowest=2e-8)
    assert decision == words
    assert math.isclose(found, expected, rel_tol=1e-12)


@pytest.mark.parametrize("h, p, q, expected", [
    (1/51, 1, 2, 1/51), (1/49, 1, 2, (1/49/50)**.5), (1/3, 1, 4, (1/150)**.25), (1/4, 1, 4, 1/4),
    (1/7, 2, 4, (1/49/50)**.25), (1/8, 2, 4, 1/8),
])
def test_the_test_solver_is_fifty_times_more_accurate(h, p, q, expected):
    assert math.isclose(checking_step(h, p, q), expected)


def test_a_check_that_fails_tries_no_enlarged_step():
    script = [(9, 8), (7, 20)]
    adapter = scripted(StepAdapter, script, "euler@1/8")
    adapter.set_values([1/8])
    adapter.step(DATA.x_train[:10], ONES)
    assert script == []
    assert adapter.values == [1/16]
    assert adapter.rows[0]["nfe"] == 8 + 20


def test_a_difference_of_exactly_the_threshold_passes():
    adapter = scripted(StepAdapter, [(8, 8), (7, 20), (8, 7)], "euler@1/8")
    adapter.set_values([1/8])
    adapter.step(DATA.x_train[:10], ONES)
    assert adapter.rows[0]["decision"] == "grown"


def test_five_equal_checks_not_four_stop_the_tolerance():
    agree = [(9, 20), (9, 26), (9, 20)]
    adapter = scripted(ToleranceAdapter, agree * 6, "dopri5@1e-3", tol=1e-3)
    adapter.start(DATA.x_train[:10])
    for _ in range(6):
        adapter.step(DATA.x_train[:10], ONES)
    decisions = [row["decision"] for row in adapter.rows]
    assert decisions == ["grown"] * 5 + ["kept: same evaluations for five checks"]


@pytest.mark.parametrize("kind, solver, every", [(StepAdapter, "euler@1/8", 10), (ToleranceAdapter, "fehlberg2@1e-6", 20)])
def test_a_run_that_is_stopped_and_resumed_is_the_same_run(kind, solver, every, tmp_path):
    def train(iterations, checkpoint=None):
        model = NeuralODE.for_data(DATA, solver, seed=[0, 1], channels=8)
        adapter = kind(model, check_every=every)
        adapter.start(model.for_members(DATA.x_train[:128]))
        fit(model, DATA, iterations, lr=3e-3, seed=[0, 1], callbacks=[adapter], progress=False,
            checkpoint=checkpoint, checkpoint_every=every)
        return model, adapter

    whole, adapter = train(80)
    train(40, tmp_path / "run.pt")
    resumed, again = train(80, tmp_path / "run.pt")
    assert again.history.equals(adapter.history)
    assert again.values == adapter.values
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))


def test_two_blocks_share_the_smaller_first_step():
    flat, steep = (NeuralODE.for_data(DATA, "euler@1/8", seed=seed).block.field for seed in (0, 0))
    for weight in steep.parameters():
        weight.data *= 3
    x = DATA.x_train[:64]
    first_steps = []
    for blocks in ([flat], [flat, steep]):
        adapter = StepAdapter(nn.Sequential(*[ODEBlock(field, "euler@1/8") for field in blocks]), "rk4")
        adapter.start(x)
        first_steps += adapter.values
    assert first_steps[1] < first_steps[0]


def test_adapters_say_what_they_are():
    assert repr(StepAdapter(NeuralODE.for_data(DATA, "euler@1/8"))) == "StepAdapter(euler, test midpoint, every 50)"
    assert repr(ToleranceAdapter(NeuralODE.for_data(DATA, "dopri5@1e-3", seed=[0, 1]), check_every=9)) == \
        "ToleranceAdapter(dopri5, test dopri5, every 9, 2 members)"


class Unchanged(nn.Module):
    "A field that is 1 everywhere, as a module."

    def forward(self, t, z):
        return torch.ones_like(z)


@pytest.mark.parametrize("start_norm, d1", [("rows", 2**.5), ("samples", 2.)])
def test_the_first_step_takes_its_norms_over_the_last_axis(start_norm, d1):
    # d0 = (5 + 10) / 2, or 125 ** .5; d2 = 0; h1 = (0.01 / d1) ** (1 / 2) lies below 100 h0 in both cases
    image = torch.tensor([[[[3., 4.], [6., 8.]]]])
    adapter = StepAdapter(nn.Sequential(ODEBlock(Unchanged(), "euler@1/8")), start_norm=start_norm)
    adapter.start(image)
    assert adapter.values[0] == pytest.approx((.01 / d1)**.5, rel=1e-6)


def test_a_small_state_starts_at_a_hundredth_of_its_mean_row():
    # d0 = 0.005, d1 = 1: 100 h0 = 0.005 lies below h1 = 0.1
    image = torch.full((2, 3, 5, 1), .005)
    adapter = StepAdapter(nn.Sequential(ODEBlock(Unchanged(), "euler@1/8")))
    adapter.start(image)
    assert adapter.values[0] == pytest.approx(.005, rel=1e-5)


def test_the_paper_is_the_default_and_vectors_do_not_notice():
    model = NeuralODE.for_data(DATA, "euler@1/8", seed=[0, 1])
    first = model.for_members(DATA.x_train[:128])
    by_norm = []
    for options in ({}, {"start_norm": "rows"}, {"start_norm": "samples"}):
        adapter = StepAdapter(model, **options)
        adapter.start(first)
        by_norm.append(adapter.values)
    assert by_norm[0] == by_norm[1] == by_norm[2]
    assert StepAdapter(model).start_norm == "rows"


def test_an_unknown_norm_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match="start_norm must be one of rows, samples, got 'columns'"):
        StepAdapter(NeuralODE.for_data(DATA, "euler@1/8"), start_norm="columns")


def test_a_table_of_plain_values_can_name_the_norm():
    from neuralode_resnet.valid_training import Scheme
    model = NeuralODE.for_data(DATA, "euler@1/8")
    older = Scheme("euler@1/8", adaptation={"kind": "step", "start_norm": "samples"})
    assert older.make_adapter(model).start_norm == "samples"
    assert Scheme("euler@1/8", adaptation={"kind": "step"}).to_dict()["adaptation"] == {"kind": "step"}
    with pytest.raises(ValueError, match="start_norm must be one of rows, samples"):
        Scheme("euler@1/8", adaptation={"kind": "step", "start_norm": "columns"})
