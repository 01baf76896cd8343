"""Crossings by hand: what is counted, where it lies, and what is refused."""
import numpy as np
import pytest
import torch

from neuralode_resnet.crossing import crossings, draw_finer, entrance, persistence, side
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


def test_side_is_exact_where_the_determinant_of_plain_floats_is_not_zero():
    # neighbours of (.5, .5) against the diagonal; rational arithmetic says 0, 1 and -1
    p, q = np.full((3, 2), 12.), np.full((3, 2), 24.)
    ulp = 2. ** -53
    r = .5 + ulp * np.array([[4., 4.], [3., 4.], [26., 25.]])
    assert side(p, q, r).tolist() == [0, 1, -1]
    many = .5 + ulp * np.array([(i, j) for i in range(32) for j in range(32)], float)
    expected = np.sign(many[:, 1] - many[:, 0])
    near, far = np.full_like(many, 12.), np.full_like(many, 24.)
    assert side(near, far, many).tolist() == expected.tolist()
    assert side(many, near, far).tolist() == expected.tolist()  # plain floats get hundreds of these wrong


def test_side_does_not_trust_a_determinant_that_is_smaller_than_its_rounding():
    # plain floats: -5.7e-14, the wrong sign, of points whose side is that of x against y
    r = np.array([[0.5000000000000059, 0.5000000000000052]])
    p, q = np.full((1, 2), 24.272004480882924), np.full((1, 2), 14.12723206505558)
    (a, b), (c, d) = (p - r)[0], (q - r)[0]
    assert a * d - b * c < 0
    assert side(r, p, q).item() == 1


def test_crossings_of_later_portions_belong_to_their_own_segments():
    # more segments than a portion holds; only the last two trajectories meet
    straight = [[(float(k), 10. + i) for k in range(12)] for i in range(20)]
    rising = [(float(k), k / 2) for k in range(12)]
    falling = [(float(k), 5.2 - k / 2) for k in range(12)]
    found = crossings(path_of(*straight, rising, falling))
    assert found.points[["first", "second"]].to_numpy().tolist() == [[20, 21]]
    assert found.points.y.item() == pytest.approx(2.6)


def test_the_resolution_is_that_of_the_dtype_of_the_path():
    rays = np.array([1, 1 / 3]) * np.random.default_rng(0).random((1, 40, 1))
    path = (rays * np.exp(-np.linspace(0, 1, 33))[:, None, None]).astype(np.float32)
    assert crossings(path).count == 0
    assert crossings(path.astype(np.float64)).count > 100


def test_the_angle_is_that_between_directions_of_travel():
    head_on = path_of([(-1., 0.), (1., .2), (3., .4)], [(1., 0.), (-1., .2), (-3., .4)])
    assert crossings(head_on).points.angle.item() == pytest.approx(180 - 2 * np.degrees(np.arctan(.1)))


def quadratic(t, z):
    "z' = 2 t: the cubic of Hermite is exact."
    return torch.full_like(z, 2.) * torch.as_tensor(t).to(z)


def test_hermite_is_exact_for_a_solution_of_degree_two():
    block = ODEBlock(quadratic, "midpoint@1/2")
    path = draw_finer(block, torch.zeros(1, 2, dtype=torch.float64), k=4)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.allclose(path[:, 0, 0], t ** 2, atol=1e-12)


def test_substeps_start_at_the_time_of_their_node():
    block = ODEBlock(quadratic, "midpoint@1/2")
    path = draw_finer(block, torch.zeros(1, 2, dtype=torch.float64), k=4, curve="substeps")
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.allclose(path[:, 0, 0], t ** 2, atol=1e-12)


def test_a_crossing_that_moves_into_a_neighbouring_step_survives():
    # parabolas y = x^2 and y = (x - .1)^2 + s: the bend moves their crossing away from that of the chords
    def field(t, z):
        return torch.stack([torch.ones_like(z[:, 0]), quadratic(t, z[:, 1])], 1)

    block = ODEBlock(field, "midpoint@1/4", t_span=(0., 2.))
    moved = 0
    for s in torch.linspace(.05, .25, 41).tolist():
        z = torch.tensor([[0., 0.], [.1, s]], dtype=torch.float64)
        found = persistence(block, z)
        finer = crossings(draw_finer(block, z)).points
        if found.count == len(finer) == 1:
            assert found.points.survives.all(), s
            steps = found.points[["first_step", "second_step"]].to_numpy()
            moved += (finer[["first_step", "second_step"]].to_numpy() // 8 != steps).any()
    assert moved > 0
