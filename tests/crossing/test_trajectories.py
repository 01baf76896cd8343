"""Crossings by hand: what is counted, where it lies, and what is refused."""
import numpy as np
import pytest
import torch

from neuralode_resnet.crossing import crossings, draw_finer, entrance, side
from neuralode_resnet.models import ODEBlock


def path_of(*trajectories):
    "A path (n_steps + 1, batch, 2) of trajectories given as lists of points."
    return torch.tensor(trajectories, dtype=torch.float64).transpose(0, 1)


RISING = [(0., 0.), (1., 1.), (2., 2.)]
FALLING = [(0., 2.), (1., 1.5), (2., 0.)]


def test_two_lines_that_cross_are_counted_once_at_their_point():
    found = crossings(path_of(RISING, FALLING))
    assert found.count == 1
    # on the second step of both: y = x and y = 3 - 1.5 x
    assert found.points.x.item() == pytest.approx(1.2)
    assert found.points.y.item() == pytest.approx(1.2)
    assert (found.points.first_step.item(), found.points.second_step.item()) == (1, 1)


def test_the_angle_is_that_between_the_steps():
    cross = path_of([(-1., 0.), (1., 0.), (3., 0.)], [(0., -1.), (0., 1.), (0., 3.)])
    assert crossings(cross).points.angle.item() == pytest.approx(90.)


def test_touching_is_no_crossing():
    touching = path_of([(0., 0.), (1., 0.), (2., 0.)], [(0., 1.), (1., 0.), (2., 1.)])
    assert crossings(touching, resolution=0).count == 0


def test_a_trajectory_does_not_cross_itself():
    loop = [(0., 0.), (2., 0.), (1., 1.), (1., -1.)]
    away = [(9., 9.), (9., 8.), (9., 7.), (9., 6.)]
    assert crossings(path_of(loop, away)).count == 0


def test_labels_tell_crossings_between_classes():
    three = path_of(RISING, FALLING, [(0., 1.9), (1., 1.4), (2., -.1)])
    same = crossings(three, torch.tensor([0, 0, 0]))
    other = crossings(three, torch.tensor([0, 1, 1]))
    assert (same.count, same.between_classes) == (2, 0)
    assert (other.count, other.between_classes) == (2, 2)
    assert crossings(three).between_classes is None


def test_side_is_exact_where_floats_are_not():
    p, q = np.array([[0., 0.]]), np.array([[1., 1.]])
    on, above = np.array([[.1 + .2, .1 + .2]]), np.array([[.3, np.nextafter(.3, 1)]])
    assert side(p, q, on).item() == 0
    assert side(p, q, above).item() == 1
    assert side(q, p, above).item() == -1


@pytest.mark.parametrize("path, words", [
    (torch.zeros(3, 2, 3), "in the plane"), (torch.zeros(2, 2, 2), "too short"), (torch.zeros(3, 1, 2), "two trajectories"),
    (torch.full((3, 2, 2), torch.nan), "not finite"),
])
def test_what_has_no_crossings_is_refused_with_its_reason(path, words):
    with pytest.raises(ValueError, match=words):
        crossings(path)


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="need labels"):
        crossings(path_of(RISING, FALLING), torch.tensor([0]))


def test_drawing_finer_keeps_the_nodes_of_the_solver():
    block = ODEBlock(lambda t, z: torch.stack([z[:, 1], -z[:, 0]], 1), "euler@1/4")
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    coarse = block.solve(x, path=True).path
    assert torch.equal(draw_finer(block, x, 4)[::4], coarse)
    assert entrance(block, x)[0] is block
