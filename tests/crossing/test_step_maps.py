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
