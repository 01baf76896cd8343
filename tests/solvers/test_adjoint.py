"""The adjoint finds every weight that a field uses, or refuses by name."""
import functools

import pytest
import torch
from torch import nn

from neuralode_resnet.models import LinearField, Stacked
from neuralode_resnet.solvers import Solver, integrate, integrate_members

NET = nn.Linear(2, 2)


class Own:
    def __init__(self, net):
        self.parts = [{"net": net}]

    def f(self, t, z):
        return torch.tanh(self.parts[0]["net"](z))

    def __call__(self, t, z):
        return self.f(t, z)


class Borrowing(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.others = (net,)

    def forward(self, t, z):
        return torch.tanh(self.others[0](z))


def with_argument(net, t, z):
    return torch.tanh(net(z))


def with_keyword(t, z, *, net):
    return torch.tanh(net(z))


def of_the_module(t, z):
    return torch.tanh(NET(z))


def hidden_in_a_default(t, z, nets=(NET,)):
    return torch.tanh(nets[0](z))


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def __call__(self, t, z):
        return torch.tanh(self.net(z))


FIELDS = {
    "closure": lambda: (lambda t, z: torch.tanh(NET(z))),
    "function": lambda: of_the_module,
    "default": lambda: hidden_in_a_default,
    "partial": lambda: functools.partial(with_argument, NET),
    "keyword": lambda: functools.partial(with_keyword, net=NET),
    "method": lambda: Own(NET).f,
    "object": lambda: Own(NET),
    "slots": lambda: Slotted(NET),
    "borrowing module": lambda: Borrowing(NET),
    "nested": lambda: functools.partial(lambda g, t, z: g(t, z), Own(NET).f),
}


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("solver", ["midpoint@1/64", "dopri5@1e-6"])
def test_weights_of_every_kind_of_field_have_their_gradient(kind, solver):
    field, z0 = FIELDS[kind](), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    results = []
    for gradient in ("backprop", "adjoint"):
        NET.zero_grad()
        integrate(field, z0, solver, gradient=gradient).z.square().sum().backward()
        results.append([p.grad.clone() for p in NET.parameters()])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def hide(value):
    "A function that returns `value`, from a place where nobody looks."
    return iter([value] * 10_000).__next__


def test_a_tensor_computed_outside_is_refused_and_right_when_passed():
    raw = torch.tensor([[0.3, -0.2], [0.1, 0.4]], requires_grad=True)
    weight = torch.tanh(raw)
    get = hide(weight)

    def field(t, z):
        return torch.tanh(z @ get())

    with pytest.raises(ValueError, match="adjoint_params"):
        integrate(field, torch.ones(3, 2), "dopri5@1e-6", gradient="adjoint")
    found, = torch.autograd.grad(integrate(field, torch.ones(3, 2), "dopri5@1e-6", gradient="adjoint", adjoint_params=(weight,)).z.sum(), raw)
    exact, = torch.autograd.grad(integrate(lambda t, z: torch.tanh(z @ torch.tanh(raw)), torch.ones(3, 2), "dopri5@1e-6").z.sum(), raw)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)


def test_a_leaf_that_hides_is_found_by_the_graph():
    weight = torch.tensor(0.5, requires_grad=True)
    get = hide(weight)
    slope, = torch.autograd.grad(integrate(lambda t, z: z * get(), torch.ones(1, 1), "dopri5@1e-6", gradient="adjoint").z.sum(), weight)
    assert abs(slope - torch.tensor(0.5).exp()) < 1e-3


def test_a_weight_that_comes_into_play_late_is_noticed():
    weights = [torch.tensor(w, requires_grad=True) for w in (0.5, 0.7)]
    gets = [hide(w) for w in weights]
    end = integrate(lambda t, z: z * gets[int(t > 0.5)](), torch.ones(1, 1), "midpoint@1/8", gradient="adjoint").z
    with pytest.raises(RuntimeError, match="adjoint_params"):
        end.sum().backward()


def test_a_module_with_branches_has_all_its_gradients():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.early, self.late = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, t, z):
            return (self.early if t < 0.5 else self.late)(z)

    field = Branching()
    results = [torch.autograd.grad(integrate(field, torch.ones(1, 2), "midpoint@1/64", gradient=g).z.sum(), [*field.parameters()])
               for g in ("backprop", "adjoint")]
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_members_under_a_tolerance_have_the_gradients_of_the_adjoint():
    stacked = Stacked([LinearField(2, 8), LinearField(2, 8)])
    z, solvers = torch.randn(2, 5, 2), [Solver("dopri5", tol=1e-6)] * 2
    results = []
    for gradient in ("backprop", "adjoint"):
        stacked.zero_grad()
        integrate_members(stacked, z, solvers, gradient=gradient)[0].sum().backward()
        results.append([p.grad.clone() for p in stacked.parameters()])
    for a, b in zip(*results):
        assert 0 < (a - b).norm() + b.norm() and (a - b).norm() < 2e-2 * b.norm()  # kinks of the ReLU cost digits


def test_nothing_is_evaluated_uncounted_but_the_two_looks_before_the_solve():
    calls = []

    def field(t, z):
        calls.append(t)
        return -z

    solution = integrate(field, torch.ones(2, 1), "midpoint@1/8", gradient="adjoint")
    assert solution.nfe == 16 and len(calls) == 18
