"""Jacobians of steps against hand arithmetic, and what they say about folding."""
import pytest
import torch

from neuralode_resnet.crossing import injectivity, step_jacobian
from neuralode_resnet.models import ODEBlock

MATRIX = torch.tensor([[0., 1.], [-3., 0.]], dtype=torch.float64)


def linear(t, z):
    return z @ MATRIX.T


def test_the_jacobian_of_eulers_step_is_identity_plus_h_times_the_matrix():
    z = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = step_jacobian(linear, "euler@1/8", z)
    assert torch.allclose(found, (torch.eye(2) + MATRIX / 8).expand(4, 2, 2))


def test_midpoint_has_the_second_order_term_too():
    z = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.eye(2) + MATRIX / 8 + MATRIX @ MATRIX / 128
    assert torch.allclose(step_jacobian(linear, "midpoint@1/8", z), expected.expand(4, 2, 2))


def test_a_step_that_turns_space_over_is_folded():
    # z' = -3 z in one Euler step: z -> -2 z, which reverses orientation on a line
    block = ODEBlock(lambda t, z: -3 * z, "euler@1.0")
    found = injectivity(block, torch.tensor([[1.], [2.]], dtype=torch.float64))
    assert found.share_folded == 1
    assert not found.refuted  # it is one-to-one all the same
    assert found.largest_h_lip == pytest.approx(3)
    assert found.smallest_singular == pytest.approx(2)


def test_determinants_of_both_signs_refute_a_step():
    # z -> z + (1 - z^2) has derivative 1 - 2 z: positive at 0, negative at 1
    block = ODEBlock(lambda t, z: 1 - z ** 2, "euler@1.0")
    found = injectivity(block, torch.tensor([[0.], [1.]], dtype=torch.float64))
    assert found.refuted and found.share_folded == .5


def test_a_small_step_folds_nothing():
    block = ODEBlock(linear, "euler@1/64")
    found = injectivity(block, torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert found.share_folded == 0 and found.largest_h_lip < 1


def test_a_tolerance_has_no_step_of_its_own():
    with pytest.raises(ValueError, match="by the batch"):
        step_jacobian(linear, "dopri5@1e-3", torch.zeros(1, 2))


def test_a_step_is_taken_at_its_own_time():
    # z' = t z in one Euler step from t: z -> (1 + h t) z
    z = torch.ones(1, 2, dtype=torch.float64)
    found = step_jacobian(lambda t, z: t * z, "euler@1/2", z, t=3.)
    assert torch.allclose(found, 2.5 * torch.eye(2, dtype=torch.float64))
    block = ODEBlock(lambda t, z: t * z, "euler@1/2")
    assert injectivity(block, z).det.flatten().tolist() == pytest.approx([1, 1.25 ** 2])


def known_norm(n=100, seed=0):
    "A step whose Jacobian minus identity has singular values 2, 1, 2/3 ... 2/n."
    draw = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64))[0] for _ in range(2))
    matrix = left @ torch.diag(2 / torch.arange(1, n + 1, dtype=torch.float64)) @ right
    return ODEBlock(lambda t, z: z @ matrix.T, "euler@1.0"), torch.randn(3, n, generator=draw, dtype=torch.float64)


def test_power_iteration_finds_the_norm_and_never_exceeds_it():
    block, x = known_norm()
    estimate = injectivity(block, x)
    assert estimate.det is None
    assert 1.998 < estimate.largest_h_lip <= 2 + 1e-12
    few = injectivity(block, x, iterations=1)
    assert (few.h_lip <= estimate.h_lip).all()


def test_signs_have_to_differ_within_one_step_to_refute_it():
    # z' = -g(t) z mirrors every state in the first of two steps, and none in the second
    block = ODEBlock(lambda t, z: -6 * (t < .25).to(z) * z, "euler@1/2")
    found = injectivity(block, torch.tensor([[1.], [2.]], dtype=torch.float64))
    assert found.det.sign().tolist() == [[-1, -1], [1, 1]]
    assert not found.refuted
