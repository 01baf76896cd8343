"""Rivals change what they say for one iteration, cost what they say, and give everything back."""
import pytest
import torch

from neuralode_resnet.datasets import load
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.solver_swap import swapped
from neuralode_resnet.training import fit
from neuralode_resnet.valid_training import (
    CoarseToFine, ExtrapolatedLoss, FieldPenalty, LipschitzBound, MirroredError, RandomEnd, RandomMethod, RandomSteps,
    RandomTolerance, SolverPenalty,
)

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


def test_a_mirrored_iteration_trains_with_the_opposite_error():
    "Of order one, the mirrored logits are m_h + 4 (m_{h/2} - m_h)."
    class Run:
        model = NeuralODE.for_data(DATA, "euler@1/1", seed=[0, 1], channels=8)
        x = model.for_members(DATA.x_test[:20])
        y = DATA.y_test[:20].expand(2, 20)
        seeds = [0, 1]

    run = Run()
    mirror = MirroredError(1, share=.999999)
    mirror.before(run)
    run.logits = run.model(run.x)
    run.nfe = run.model.block.nfe
    plain = torch.nn.functional.cross_entropy(run.logits.flatten(0, 1), run.y.flatten(), reduction="none")
    run.losses = plain.view(2, 20).mean(1)
    with swapped(run.model, "euler@1/2"):
        finer = run.model(run.x)
    logits = run.logits + 4 * (finer - run.logits)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), run.y.flatten(), reduction="none")
    total = mirror.penalty(run) + run.losses
    assert torch.allclose(total, expected.view(2, 20).mean(1), atol=1e-6)
    assert run.nfe == [1 + 2] * 2


@pytest.mark.parametrize("made", [
    lambda: MirroredError(2), lambda: RandomSteps(3, .5), lambda: FieldPenalty("jacobian", .1),
])
def test_draws_of_one_generator_resume(made):
    first, second = made(), made()
    train(first, 7)
    second.load_state_dict(first.state_dict())
    assert torch.equal(torch.rand(3, generator=first.generator), torch.rand(3, generator=second.generator))


@pytest.mark.parametrize("draw, nfe", [
    (ExtrapolatedLoss(2), {6}), (RandomSteps(4, .5), {5}), (FieldPenalty("speed", .1), {8 + 8 + 1}),
    (FieldPenalty("acceleration", .1), {8 + 8 + 2}), (LipschitzBound(1.), {8}), (MirroredError(2), {2, 6}),
])
def test_rivals_cost_what_they_say_and_give_the_solver_back(draw, nfe):
    model, history = train(draw)
    assert set(history.nfe.unique()) == nfe
    assert str(model.block.solver) == "euler@1/8"


def test_a_single_model_trains_under_every_rival():
    for draw in (MirroredError(2), ExtrapolatedLoss(2), RandomSteps(4, .5), FieldPenalty("local_error", .1), LipschitzBound(1.)):
        model = NeuralODE.for_data(DATA, "euler@1/8", seed=0, channels=8)
        history = fit(model, DATA, 8, seed=0, steps=draw, progress=False)
        assert history.loss.notna().all()


def test_ends_of_random_steps_are_in_order_and_within_their_spread():
    draw = RandomSteps(5, .9)
    for _ in range(50):
        ends = draw.draw_ends((0., 1.))
        assert list(ends) == sorted(ends)
        assert max(abs(end - (i + 1) / 5) for i, end in enumerate(ends)) <= .45 / 5 + 1e-9
