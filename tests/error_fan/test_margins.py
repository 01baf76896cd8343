"""Distances to decision boundaries by hand, and when a line separates."""
import copy

import pytest
import torch
from torch import nn

from neuralode_resnet.datasets import load
from neuralode_resnet.error_fan import head_margin, sensitivity, separable, separation
from neuralode_resnet.models import NeuralODE

XOR = torch.tensor([[0., 0.], [1., 1.], [0., 1.], [1., 0.]])


def head_of(weight, bias):
    layer = nn.Linear(2, len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def test_the_margin_is_the_distance_from_the_line():
    # the boundary is x = 1
    head = head_of([[1., 0.], [-1., 0.]], [-1., 1.])
    found = head_margin(head, torch.tensor([[3., 7.], [1., 0.], [-2., 0.]]))
    assert found.tolist() == pytest.approx([2, 0, 3])


def test_of_several_boundaries_the_nearest_counts():
    head = head_of([[1., 0.], [0., 1.], [0., 0.]], [0., 0., 0.])
    # class 0 at (4, 1): from x = y by 3 / sqrt 2, from x = 0 by 4
    assert head_margin(head, torch.tensor([[4., 1.]])).item() == pytest.approx(3 / 2 ** .5)


def test_xor_is_not_separable_and_three_of_its_points_are():
    labels = torch.tensor([0, 0, 1, 1])
    assert not separable(XOR, labels)
    assert separation(XOR, labels) == pytest.approx(0, abs=1e-9)
    assert separable(XOR[:3], labels[:3])


@pytest.mark.parametrize("call, words", [
    (lambda: head_margin(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), XOR), "one linear layer"),
    (lambda: head_margin(nn.Linear(3, 2), XOR), "takes 3 finite"),
    (lambda: separation(XOR, torch.zeros(4, dtype=torch.long)), "two classes"),
    (lambda: separation(XOR * torch.nan, torch.tensor([0, 0, 1, 1])), "not finite"),
])
def test_what_has_no_margin_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_separation_does_not_depend_on_the_unit():
    labels = torch.tensor([0, 1, 0, 0])
    for scale in (1e-6, 1., 1e6):
        assert separation(scale * XOR.double() + 3 * scale, labels) == pytest.approx(2, abs=1e-4)


def test_classes_of_equal_weights_are_infinitely_far_apart():
    for bias in ([0., 0.], [0., -5.]):
        assert head_margin(head_of([[1., 2.], [1., 2.]], bias), XOR).tolist() == [torch.inf] * 4


def test_sensitivity_compares_two_solvers_and_leaves_the_model():
    data = load("sphere2", seed=0)
    model = NeuralODE.for_data(data, "euler@1/2", seed=0)
    x = data.x_test[:50]
    found = sensitivity(model, x, "rk4@1/8", batch_size=20)
    double = copy.deepcopy(model).double()
    own = double.block(double.upstream(x.double()))
    double.block.solver = "rk4@1/8"
    better = double.block(double.upstream(x.double()))
    expected = (own - better).flatten(1).norm(dim=1)
    assert expected.min() > 0
    assert found.difference.tolist() == pytest.approx(expected.tolist())
    assert found.margin.tolist() == pytest.approx(head_margin(double, own).tolist())
    assert str(model.block.solver) == "euler@1/2"
