"""Rivals change what they say for one iteration, cost what they say, and give everything back."""
import pytest
import torch

from neuralode_resnet.datasets import load
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.solver_swap import swapped
from neuralode_resnet.training import fit
from neuralode_resnet.valid_training import CoarseToFine, RandomEnd, RandomMethod, RandomTolerance, SolverPenalty

DATA = load("sphere2", seed=0)


def train(steps, iterations=30, solver="euler@1/8", seeds=(0, 1), **options):
    model = NeuralODE.for_data(DATA, solver, seed=[*seeds], channels=8)
    history = fit(model, DATA, iterations, lr=3e-3, seed=[*seeds], steps=steps, progress=False, **options)
    return model, history


def test_three_methods_of_one_cost_cost_the_same_at_every_iteration():
    _, history = train(RandomMethod(["euler@1/8", "midpoint@1/4", "rk4@1/2"]))
    assert history.nfe.unique().tolist() == [8]


def test_methods_of_different_cost_are_all_drawn():
    _, history = train(RandomMethod(["euler@1/8", "rk4@1/8"]))
    assert sorted(history.nfe.unique()) == [8, 32]


def test_a_drawn_tolerance_stays_in_its_range():
    found = []
    model, _ = train(RandomTolerance(1e-4, 1e-2), solver="dopri5@1e-3",
                     callbacks=[lambda run: found.append(run.model.block.solvers[0].tol)])
    assert set(found) == {1e-3}  # behind the iteration the solver is back
    draw = RandomTolerance(1e-4, 1e-2)
    for u, tol in ((0., 1e-4), (.5, 1e-3), (1., 1e-2)):
        draw.draw_uniform = lambda i: u
        assert draw.solver_for(0, model.block).tol == pytest.approx(tol)


def test_a_random_end_stretches_time_and_step_together():
    ends = []

    class Noting(RandomEnd):
        def before(self, run):
            super().before(run)
            block = run.model.block
            ends.append((block.t_span[1], block.solvers[0].n_steps(block.t_span)))

    model, history = train(Noting(.5))
    assert model.block.t_span == (0., 1.)
    assert {n for _, n in ends} == {8}
    assert min(end for end, _ in ends) >= .5
    assert max(end for end, _ in ends) <= 1.5
    assert len({end for end, _ in ends}) == 30
    assert history.nfe.unique().tolist() == [8]


def test_the_penalty_is_weight_times_mean_squared_difference():
    class Run:
        model = NeuralODE.for_data(DATA, "euler@1/8", seed=[0, 1], channels=8)
        x = model.for_members(DATA.x_train[:16])
        logits = model(x)
        nfe = model.block.nfe

    run = Run()
    with swapped(run.model, "euler@1/16"):
        finer = run.model(run.x)
    expected = 3 * (run.logits - finer).square().mean((-2, -1))
    found = SolverPenalty(3.).penalty(run)
    assert torch.equal(found, expected)
    assert found.shape == (2,)
    assert torch.as_tensor(run.nfe).tolist() in (24, [24, 24])


def test_coarse_to_fine_doubles_at_equal_distances():
    model, history = train(CoarseToFine(2, 16, 30), solver="euler@1/2")
    of_one = history[history.member == 0].nfe.tolist()
    assert of_one == [2] * 8 + [4] * 8 + [8] * 8 + [16] * 6
    assert str(model.block.solver) == "euler@1/16"


@pytest.mark.parametrize("made", [
    lambda: RandomEnd(.5), lambda: RandomMethod(["euler@1/8", "midpoint@1/4"]), lambda: CoarseToFine(2, 8, 20),
    lambda: SolverPenalty(1.),
])
def test_a_run_with_a_rival_resumes_bitwise(made, tmp_path):
    whole, history = train(made(), 20)
    train(made(), 10, checkpoint=tmp_path / "run.pt", checkpoint_every=5)
    resumed, same = train(made(), 20, checkpoint=tmp_path / "run.pt", checkpoint_every=5)
    assert same.equals(history)
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))


@pytest.mark.parametrize("words, attempt", [
    ("no solvers to draw from", lambda: RandomMethod([])),
    ("0 < low <= high, got 1.0 and 0.1", lambda: RandomTolerance(1., .1)),
    (r"spread must lie in \(0, 1\), got 1", lambda: RandomEnd(1)),
    ("weight > 0 and factor > 1, got 1.0 and 1", lambda: SolverPenalty(1., 1)),
    ("a power of two, got 2 and 12", lambda: CoarseToFine(2, 12, 100)),
    ("a power of two, got 8 and 2", lambda: CoarseToFine(8, 2, 100)),
])
def test_wrong_settings_stop_with_what_was_given(words, attempt):
    with pytest.raises(ValueError, match=words):
        attempt()
