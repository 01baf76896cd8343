"""The controller's law by hand arithmetic, its clamp, its dead band, and draws that do not depend on company."""
import math

import pytest
import torch

from neuralode_resnet.adaptation import Measured
from neuralode_resnet.datasets import load
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.training import fit
from neuralode_resnet.valid_training import RandomDepth, ToleranceController, ValidityController
from neuralode_resnet.valid_training.controllers import decide_change

DATA = load("sphere2", seed=0)


def steps_after(share, before=None, order=1, target=.01, n=100):
    "By what the number of steps is multiplied."
    return math.exp(decide_change(share, before, target, n, order))


def controller_with(flips, n=100, solver="euler@1/40", **options):
    "A controller whose checks find these shares of flips, one after the other."
    class Scripted(ValidityController):
        def measure(self, x, y, solvers):
            classes = torch.zeros(1, n, dtype=torch.long)
            if solvers[0].method == self.test_method:
                classes[0, :round(flips.pop(0) * n)] = 1
            return Measured(classes, [1.], [solvers[0].n_steps()], [solvers[0].n_steps()])
    controller = Scripted(NeuralODE.for_data(DATA, solver), check_every=1, **options)
    controller.set_values([1 / int(solver.partition("/")[2])])
    return controller


def steps_of(controller, checks):
    "Numbers of steps before and after every check."
    found = [round(1 / controller.values[0])]
    for _ in range(checks):
        controller.step(DATA.x_train[:2], DATA.y_train[:2])
        found.append(round(1 / controller.values[0]))
    return found


@pytest.mark.parametrize("share, before, order, expected", [
    # half a sample is 0.005: e = log((share + 0.005) / 0.015)
    (.085, None, 2, 6**.25),             # e = log 6, only the integral part
    (.085, .025, 2, 6**.25 * 3**.125),   # e before = log 2
    (.0249, .085, 2, 1),                 # e just below log 2, the edge of the dead band
    (.04, .085, 2, 3**.25 * 2**-.125),   # falling: the proportional part holds back
    (.085, None, 1, 2),                  # 6**.5, held at a doubling
    (.5, .01, 1, 2),
    (0., None, 1, .8),                   # 3**-.5 = 0.58, held at four fifths
    (0., 1., 1, .8),
    (0., None, 4, 3**-.125),             # 0.87, within the bounds
])
def test_the_law_by_hand(share, before, order, expected):
    assert math.isclose(steps_after(share, before, order), expected, rel_tol=1e-9)


@pytest.mark.parametrize("share", [.0, .001, .01, .1, 1.])
@pytest.mark.parametrize("before", [None, 0., .01, 1.])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_no_check_more_than_doubles_the_steps_or_takes_more_than_a_fifth_away(share, before, order):
    assert .8 - 1e-9 <= steps_after(share, before, order) <= 2 + 1e-9


@pytest.mark.parametrize("share", [.0026, .005, .01, .02, .0249])
def test_nothing_moves_within_a_factor_of_two(share):
    assert steps_after(share, before=.5) == 1


def test_a_target_that_the_batch_cannot_show_is_one_sample():
    assert steps_after(0., n=10, target=.001, order=4) == steps_after(0., n=10, target=.1, order=4)
    assert steps_after(.1, n=10, target=.001) == 1


def test_the_controller_never_halves_at_once():
    assert steps_of(controller_with([0.] * 5), 5) == [40, 32, 26, 21, 17, 14]


def test_the_controller_never_more_than_doubles():
    assert steps_of(controller_with([.5, .5]), 2)[:2] == [40, 80]


def test_the_signal_is_smoothed_over_checks():
    controller = controller_with([.01, .11])
    steps_of(controller, 2)
    share = .01 + .3 * .1
    change = decide_change(share, .01, .01, 100, 1)
    steps = round(40 * math.exp(change))
    assert math.isclose(controller.signals[0], share * (1 / steps / controller_with([]).values[0]))


def test_a_drawn_depth_follows_the_mean():
    depth = RandomDepth(2, 14)
    controller = controller_with([0.], solver="euler@1/20", depth=depth)
    assert depth.high == [38]
    assert steps_of(controller, 1) == [20, 16]
    assert depth.high == [30]


def test_the_depth_that_is_set_never_falls_below_its_low():
    depth = RandomDepth(4, 8)
    assert steps_of(controller_with([0.] * 3, solver="euler@1/5", depth=depth), 3) == [5, 4, 4, 4]
    assert depth.high == [4]


@pytest.mark.parametrize("log", [False, True])
def test_a_member_draws_alone_what_it_draws_in_company(log):
    class Training:
        def __init__(self, seeds):
            self.seeds = seeds
            self.model = NeuralODE.for_data(DATA, "midpoint@1/4", seed=seeds)

    def draw(seeds):
        depth, training, found = RandomDepth(1, 9, log=log), Training(seeds), []
        for _ in range(50):
            depth.before(training)
            found.append([solver.n_steps() for solver in training.model.block.solvers])
            depth(training)
        assert {str(solver) for solver in training.model.block.solvers} == {"midpoint@1/4"}
        return list(zip(*found))

    alone, = draw([3])
    assert draw([8, 3])[1] == alone
    assert set(alone) <= set(range(1, 10))
    assert len(set(alone)) > 5


def test_the_largest_depth_is_drawn_and_never_exceeded():
    for log in (False, True):
        depth = RandomDepth(2, 3, log=log)
        depth.draw_uniform = lambda i: 1.  # more than any draw
        assert depth.draw(0) == 3
        depth.draw_uniform = lambda i: 0.
        assert depth.draw(0) == 2


@pytest.mark.parametrize("made", [
    lambda model: ValidityController(model, "rk4", check_every=5),
    lambda model: ValidityController(model, "rk4", check_every=5, depth=RandomDepth(2, 14)),
])
def test_a_controlled_run_resumes_bitwise(made, tmp_path):
    def train(iterations, checkpoint=None):
        model = NeuralODE.for_data(DATA, "midpoint@1/8", seed=[0, 1], channels=8)
        controller = made(model)
        controller.start(model.for_members(DATA.x_train[:128]))
        history = fit(model, DATA, iterations, lr=1e-2, seed=[0, 1], steps=controller.depth, callbacks=[controller],
                      progress=False, checkpoint=checkpoint, checkpoint_every=10)
        return model, history, controller

    model, history, controller = train(60)
    train(30, tmp_path / "run.pt")
    resumed, same, again = train(60, tmp_path / "run.pt")
    assert same.equals(history)
    assert again.state_dict() == controller.state_dict()
    assert all(map(torch.equal, resumed.parameters(), model.parameters()))


def test_the_tolerance_stays_where_it_can_be_tested():
    model = NeuralODE.for_data(DATA, "fehlberg2@1e-4")
    controller = ToleranceController(model, min_tol=1e-7, max_tol=.1)
    assert controller.change_value(.09, -math.log(1.25)) == .1
    assert controller.change_value(6e-7, math.log(2)) == 5e-7  # the test solver has a fifth of it
    assert math.isclose(controller.change_value(1e-3, math.log(2)), 5e-4)


def test_controllers_and_draws_say_what_they_are():
    model = NeuralODE.for_data(DATA, "midpoint@1/8")
    controller = ValidityController(model, "rk4", depth=RandomDepth(2, 6))
    assert repr(controller) == "ValidityController(midpoint, test rk4, every 50, target 0.01, RandomDepth(2, 6))"
    assert repr(RandomDepth(2, 6, log=True)) == "RandomDepth(2, 6, log=True)"
