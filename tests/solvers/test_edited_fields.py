"""Whoever edits a field gets the edited field: random edits, and a hand-written loop over what the field now is."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from neuralode_resnet.models import Conv1dField, LinearField, Stacked, init_kaiming
from neuralode_resnet.solvers import integrate
from neuralode_resnet.solvers.steps import march

ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.SiLU, nn.GELU, nn.ELU, nn.Hardtanh, nn.Mish,
               lambda: nn.GELU(approximate="tanh"), lambda: nn.LeakyReLU(-0.3), lambda: nn.ELU(2.0), lambda: nn.Softplus(3.0, 1.0)]


class Timed(nn.Module):
    "A user's field: time appended, one activation kept as an attribute."
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        self.last, self.slope = torch.tanh, 0.1

    def forward(self, t, z):
        return self.last(self.net(torch.cat([z, t.expand(z.shape[0], 1)], -1)))


def layer(field, draw):
    "One of the linear or convolution layers."
    return draw(st.sampled_from([m for m in field.net if isinstance(m, (nn.Linear, nn.Conv1d)) and "weight" in m._parameters]))


def another_activation(field, draw):
    field.net[draw(st.sampled_from([1, 3]))] = draw(st.sampled_from(ACTIVATIONS))()


def a_hook(field, draw):
    target = draw(st.sampled_from([field, field.net, field.net[1], layer(field, draw)]))
    if draw(st.booleans()):
        target.register_forward_hook(lambda module, arguments, result: 0.5 * result)
    else:
        target.register_forward_pre_hook(lambda module, arguments: (*arguments[:-1], 0.5 * arguments[-1]))


def a_subclass(field, draw):
    class Edited(type(field)):
        def forward(self, t, z):
            return super().forward(t, z) * torch.cos(t)
    field.__class__ = Edited


def a_parametrisation(field, draw):
    target = layer(field, draw)
    how = draw(st.sampled_from(["spectral", "weight", "old weight"]))
    if how == "spectral":
        parametrizations.spectral_norm(target)
        field.eval()  # in training every call changes it
    elif how == "weight":
        parametrizations.weight_norm(target)
    else:
        nn.utils.weight_norm(target)


def an_insertion(field, draw):
    at = draw(st.sampled_from([1, 2, 3]))
    field.net.insert(at, draw(st.sampled_from([nn.Tanh, nn.Identity, nn.Softsign]))())


def tied_layers(field, draw):
    field.net.insert(3, field.net[2])


def a_pruned_bias(field, draw):
    prune.random_unstructured(layer(field, draw), draw(st.sampled_from(["bias", "weight"])), amount=1)


def another_convolution(field, draw):
    if not isinstance(field.net[2], nn.Conv1d):
        return another_activation(field, draw)
    more = draw(st.sampled_from([dict(padding_mode="circular"), dict(dilation=2, padding=2), dict(padding="same"), dict(groups=2)]))
    channels = field.net[2].in_channels
    field.net[2] = nn.Conv1d(channels, channels, 3, **{"padding": 1, **more})


def dropout(field, draw):
    field.net[3] = nn.Dropout(0.5)
    field.train(False)  # in training every call differs


def an_edit_in_place(field, draw):
    with torch.no_grad():
        layer(field, draw).weight.mul_(-0.7)


def a_new_tensor(field, draw):
    target = layer(field, draw)
    if draw(st.booleans()):
        target.weight = nn.Parameter(0.3 * target.weight.detach())
    else:
        target.weight.data = 0.3 * target.weight.data


def an_own_forward(field, draw):
    inner = field.net
    target = draw(st.sampled_from([field, field.net[1]]))
    target.forward = (lambda t, z: torch.sin(z)) if target is field else (lambda z: torch.sin(z))
    assert field.net is inner


def an_attribute(field, draw):
    if isinstance(field, Timed):
        field.last = draw(st.sampled_from([torch.sigmoid, F.relu, torch.sin, lambda z: 2 * z, lambda z: F.leaky_relu(z, 0.4)]))
    else:
        field.net[1] = nn.LeakyReLU(0.1)
        field.net[1].negative_slope = 0.6


def a_layer_without_bias(field, draw):
    layer(field, draw).bias = None


EDITS = [another_activation, a_hook, a_subclass, a_parametrisation, an_insertion, tied_layers, a_pruned_bias, another_convolution,
         dropout, an_edit_in_place, a_new_tensor, an_own_forward, an_attribute, a_layer_without_bias]
MAKE = {"linear": lambda: init_kaiming(LinearField(3, 8), torch.Generator().manual_seed(0)),
        "conv1d": lambda: init_kaiming(Conv1dField(8), torch.Generator().manual_seed(0)), "timed": Timed}


def by_hand(field, z, solver):
    "Euler's method and the classical method, written out."
    n, h = 8, 1 / 8
    for i in range(n):
        t = torch.tensor(i * h)
        k1 = field(t, z)
        if solver.startswith("euler"):
            z = z + h * k1
            continue
        k2 = field(t + h / 2, z + h / 2 * k1)
        k3 = field(t + h / 2, z + h / 2 * k2)
        k4 = field(t + h, z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z


def gradients(end, z, field):
    return [end, *torch.autograd.grad(end.square().sum(), [z, *field.parameters()], allow_unused=True, materialize_grads=True)]


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_an_edited_field_is_solved_as_it_is_now(data):
    torch.manual_seed(0)
    field = MAKE[data.draw(st.sampled_from(list(MAKE)))]()
    z = torch.randn(6, *((1, 3) if isinstance(field, Conv1dField) else (3,))).requires_grad_()
    solver = data.draw(st.sampled_from(["euler@1/8", "rk4@1/8", "dopri5@1e-3"]))
    integrate(field, z, solver)  # now it is known
    for edit in data.draw(st.lists(st.sampled_from(EDITS), min_size=1, max_size=2, unique=True)):
        try:
            edit(field, data.draw)
        except (AttributeError, ValueError, KeyError, RuntimeError, TypeError):  # two edits may not fit together
            pass
    solution = integrate(field, z, solver, allow_nonfinite=True)
    if solver.startswith("dopri5"):
        expected = march(lambda t, z: field(t, z), solution_tableau(), solution.grid, z)[0]
    else:
        expected = by_hand(field, z, solver)
    found, wanted = gradients(solution.z, z, field), gradients(expected, z, field)
    rounding = 1e-7 * max(theirs.abs().max().item() for theirs in wanted)  # of what cancels, as in the direction of one number
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=max(2e-4 * max(1., theirs.abs().max().item()), rounding))


def solution_tableau():
    from neuralode_resnet.solvers.tableaus import find_tableau
    return find_tableau("dopri5")


@pytest.mark.parametrize("edit", [another_activation, a_hook, an_insertion, an_own_forward, an_edit_in_place])
def test_the_template_of_an_ensemble_may_be_edited(edit):
    class First:  # draws the first of what is offered
        def __call__(self, strategy):
            return strategy.elements[-1] if hasattr(strategy, "elements") else True
    ensemble = Stacked([MAKE["linear"](), MAKE["linear"]()])
    z = torch.randn(2, 5, 3)
    integrate(ensemble, z, "euler@1/8")
    edit(ensemble.template[0], First())
    expected = torch.stack([by_hand(ensemble.view(i), z[i], "euler@1/8") for i in range(2)])
    torch.testing.assert_close(integrate(ensemble, z, "euler@1/8", allow_nonfinite=True).z, expected, rtol=1e-4, atol=1e-4)


def test_an_ensemble_with_a_forward_or_a_hook_of_its_own_is_called():
    z = torch.randn(2, 5, 3)
    for edit in (lambda e: e.register_forward_hook(lambda module, arguments, result: 3 * result),
                 lambda e: setattr(e, "forward", lambda t, z: 0 * z)):
        ensemble = Stacked([MAKE["linear"](), MAKE["linear"]()])
        before = integrate(ensemble, z, "euler@1/8").z
        edit(ensemble)
        after = integrate(ensemble, z, "euler@1/8").z
        torch.testing.assert_close(after, by_hand(ensemble, z, "euler@1/8"), rtol=1e-4, atol=1e-4)
        assert (after - before).abs().max() > 1e-2
