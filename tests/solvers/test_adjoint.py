"""The adjoint finds every weight that a field uses, or refuses by name."""
import functools

import pytest
import torch
import torchdiffeq
from torch import nn

from neuralode_resnet.models import Conv1dField, LinearField, Stacked
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
    torch.manual_seed(0)
    stacked = Stacked([LinearField(2, 8), LinearField(2, 8)])
    z = torch.randn(2, 5, 2)
    found, wanted = [], []  # wanted: over fine steps, since kinks of the ReLU cost dopri5's backpropagation digits
    for solver, gradient, results in (("dopri5@1e-6", "adjoint", found), ("midpoint@1/1000", "backprop", wanted)):
        end = integrate_members(stacked, z, [Solver.parse(solver)] * 2, gradient=gradient)[0]
        results += torch.autograd.grad(end.sum(), [*stacked.parameters()])
    for a, b in zip(found, wanted):
        assert (a - b).norm() < 3e-3 * b.norm()


class TimeMlp(nn.Module):
    "Recognised, with the time as a column of each layer."

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(9, 2)

    def forward(self, t, z):
        time = torch.ones_like(z[:, :1]) * t
        return self.last(torch.cat([torch.tanh(self.first(torch.cat([z, time], 1))), time], 1))


RECOGNISED = {"linear": lambda: LinearField(2, 8), "convolution": lambda: Conv1dField(8), "time": TimeMlp}


def start_of(kind):
    torch.manual_seed(0)
    field = RECOGNISED[kind]().double()
    return field, torch.randn(6, 1, 2, dtype=torch.float64) if kind == "convolution" else torch.randn(6, 2).double()


@pytest.mark.parametrize("kind", RECOGNISED)
@pytest.mark.parametrize("wishes", [{}, dict(times=[.2, .6], t_span=(0., 1.)), dict(t_span=(1., 0.)), dict(moving=True)],
                         ids=["plain", "times", "backward", "moving ends"])
def test_a_recognised_field_under_a_tolerance_has_the_gradients_of_torchdiffeq(kind, wishes):
    field, z = start_of(kind)
    z.requires_grad_()
    wishes = dict(wishes)
    ends, inputs = wishes.get("t_span", (0., 1.)), [z, *field.parameters()]
    if wishes.pop("moving", False):
        moving = torch.tensor(1., dtype=torch.float64, requires_grad=True)
        start = torch.tensor(0., dtype=torch.float64, requires_grad=True)
        wishes["t_span"] = ends = (start, moving)
        inputs += [start, moving]
    solution = integrate(field, z, "dopri5@1e-5", gradient="adjoint", **wishes)
    times = [torch.as_tensor(t, dtype=torch.float64) for t in (ends[0], *wishes.get("times", ()), ends[1])]
    theirs = torchdiffeq.odeint_adjoint(lambda t, z: field(t, z), z, torch.stack(times), rtol=1e-5, atol=1e-5,
                                        method="dopri5", adjoint_params=tuple(field.parameters()))
    ours = [solution.z, *(solution.states if "times" in wishes else ())]
    losses = sum(state.square().sum() for state in ours), theirs[[-1, *range(1, len(times) - 1)]].square().sum()
    for a, b in zip(*(torch.autograd.grad(loss, inputs) for loss in losses)):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", RECOGNISED)
def test_an_edited_field_is_solved_as_written_under_a_tolerance(kind):
    field, z = start_of(kind)
    integrate(field, z, "dopri5@1e-5", gradient="adjoint")
    layer = [module for module in field.modules() if isinstance(module, (nn.Linear, nn.Conv1d))][0]
    nn.utils.parametrizations.weight_norm(layer)
    layer.register_forward_hook(lambda module, args, result: 2 * result)
    found, wanted = (
        torch.autograd.grad(integrate(field, z, solver, gradient=gradient).z.sum(), [*field.parameters()])
        for solver, gradient in (("dopri5@1e-7", "adjoint"), ("midpoint@1/2000", "backprop"))
    )
    for a, b in zip(found, wanted):
        assert (a - b).norm() < 2e-3 * (1e-3 + b.norm())


@pytest.mark.parametrize("method", ["rk4", "rk4_38", "bosh3", "dopri5"])
@pytest.mark.parametrize("jumps", [(), (.5,)], ids=["smooth", "jump"])
def test_every_method_has_an_adjoint_at_a_fixed_step(method, jumps):
    field, z = start_of("time")
    solver = f"{method}@h=1/32" if method in ("bosh3", "dopri5") else f"{method}@1/32"
    found, wanted = (
        torch.autograd.grad(integrate(field, z, solver, gradient=gradient, jumps=jumps).z.sum(), [*field.parameters()])
        for gradient in ("adjoint", "backprop")
    )
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_nothing_is_evaluated_uncounted_but_the_two_looks_before_the_solve():
    calls = []

    def field(t, z):
        calls.append(t)
        return -z

    solution = integrate(field, torch.ones(2, 1), "midpoint@1/8", gradient="adjoint")
    assert solution.nfe == 16 and len(calls) == 18
