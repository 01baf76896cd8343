"""PyTorch's own contracts: each holds for a solve, or is refused by name; with native code and without."""
import copy
import warnings

import pytest
import torch
import torchdiffeq
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from neuralode_resnet.models import Conv1dField, LinearField, NeuralODE, ODEBlock, Stacked, init_kaiming
from neuralode_resnet.solvers import SolveError, Solver, integrate, integrate_members


class Data:
    x_train, n_classes = torch.zeros(4, 1, 2), 2


class Tanh(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, t, z):
        return torch.cos(t) * self.net(z)


@pytest.fixture(params=["1", "0"], ids=["native", "python"])
def native(request, monkeypatch):
    monkeypatch.setenv("NEURALODE_RESNET_NATIVE", request.param)
    return request.param == "1"


@pytest.fixture(params=["linear", "conv1d", "own"])
def case(request):
    torch.manual_seed(0)
    if request.param == "conv1d":
        return init_kaiming(Conv1dField(8), torch.Generator().manual_seed(0)), torch.randn(5, 1, 2)
    if request.param == "linear":
        return init_kaiming(LinearField(2, 8), torch.Generator().manual_seed(0)), torch.randn(5, 2)
    return Tanh(), torch.randn(5, 2)


def by_loop(field, z, n=8):
    for i in range(n):
        z = z + field(torch.tensor(i / n), z) / n
    return z


def test_two_losses_share_one_solve(native, case):
    field, z = case
    end = integrate(field, z, "euler@1/8").z
    for i in (0, 1):
        first = torch.autograd.grad(end[..., i].sum(), [*field.parameters()], retain_graph=True)
        second = torch.autograd.grad(by_loop(field, z)[..., i].sum(), [*field.parameters()])
        for a, b in zip(first, second):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_functional_jacobian_sees_the_solve(native, case):
    field, z = case
    ours = torch.autograd.functional.jacobian(lambda z: integrate(field, z, "euler@1/8").z, z)
    theirs = torch.autograd.functional.jacobian(lambda z: by_loop(field, z), z)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_weights_changed_before_backward_raise(native, case, gradient):
    field, z = case
    end = integrate(field, z, "euler@1/8", gradient=gradient).z
    before = [p.detach().clone() for p in field.parameters()]
    expected = torch.autograd.grad(integrate(field, z, "euler@1/8", gradient=gradient).z.sum(), [*field.parameters()])
    with torch.no_grad():
        for p in field.parameters():
            p.mul_(2.0)
    try:
        found = torch.autograd.grad(end.sum(), [*field.parameters()])
    except RuntimeError as error:
        assert "inplace" in str(error) or "modified" in str(error)
    else:  # or the gradient is that of the weights of the solve
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b)
    assert len(before) == len(expected)


def test_a_second_derivative_is_right_in_python(case, monkeypatch):
    monkeypatch.setenv("NEURALODE_RESNET_NATIVE", "0")
    field, z = case
    z = z.clone().requires_grad_()
    results = []
    for end in (integrate(field, z, "euler@1/8").z, by_loop(field, z)):
        slope, = torch.autograd.grad(end.square().sum(), z, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), z)[0])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("no_grad", [True, False])
def test_a_traced_block_computes_what_the_block_computes(native, case, no_grad):
    field, z = case
    block = ODEBlock(field, "midpoint@1/4")
    with torch.set_grad_enabled(not no_grad), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(block, z)
        torch.testing.assert_close(traced(3 * z), block(3 * z), rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            for p in field.parameters():
                p.add_(0.1)
        torch.testing.assert_close(traced(2 * z), block(2 * z), rtol=1e-4, atol=1e-4)


def test_tracing_adaptive_steps_is_refused():
    with pytest.raises(NotImplementedError, match="fixed step"):
        torch.jit.trace(ODEBlock(Tanh(), "dopri5@1e-3"), torch.randn(2, 2))


@pytest.mark.parametrize("solver", ["euler@1/8", "dopri5@1e-4"])
@pytest.mark.parametrize("no_grad", [True, False])
def test_forward_mode_tangents_pass(native, case, no_grad, solver):
    field, z = case
    v = torch.randn_like(z)
    expected = torch.autograd.functional.jvp(lambda z: integrate(lambda t, z: field(t, z), z, solver).z, z, v)[1]
    with torch.set_grad_enabled(not no_grad), forward_ad.dual_level():
        end = integrate(field, forward_ad.make_dual(z, v), solver).z
        tangent = forward_ad.unpack_dual(end).tangent
    torch.testing.assert_close(tangent, expected, rtol=1e-3, atol=1e-3)


def test_func_jvp_and_jacobians_agree(native, case):
    field, z = case

    def end(z):
        return integrate(field, z, "rk4@1/4").z

    expected = torch.autograd.functional.jacobian(lambda z: integrate(lambda t, z: field(t, z), z, "rk4@1/4").z, z)
    for transform in (jacrev, jacfwd):
        torch.testing.assert_close(transform(end)(z), expected, rtol=1e-3, atol=1e-4)
    v = torch.randn_like(z)
    product = (expected.reshape(z.numel(), z.numel()) @ v.flatten()).view_as(z)
    torch.testing.assert_close(jvp(end, (z,), (v,))[1], product, rtol=1e-3, atol=1e-4)


def test_jacrev_of_an_adaptive_solve_works():
    z = torch.randn(3, 2, dtype=torch.float64)
    found = jacrev(lambda z: integrate(lambda t, z: -z, z, "dopri5@1e-8").z)(z)
    torch.testing.assert_close(found.reshape(6, 6), torch.eye(6).double() * torch.exp(torch.tensor(-1.0).double()))


def test_per_sample_jacobians_and_gradients(native, case):
    field, z = case

    def end(sample):
        return integrate(field, sample[None], "rk4@1/4").z[0]

    jacobians = vmap(jacrev(end))(z)
    for i, sample in enumerate(z):
        torch.testing.assert_close(jacobians[i], jacrev(end)(sample), rtol=1e-3, atol=1e-4)
    block = ODEBlock(field, "rk4@1/4")
    parameters = {name: p.detach() for name, p in block.named_parameters()}

    def loss(parameters, sample):
        return functional_call(block, parameters, (sample[None],)).square().sum()

    per_sample = vmap(grad(loss), (None, 0))(parameters, z)
    total = grad(lambda p: functional_call(block, p, (z,)).square().sum())(parameters)
    for name, value in per_sample.items():
        torch.testing.assert_close(value.sum(0), total[name], rtol=1e-3, atol=1e-3)


def test_adaptive_steps_under_vmap_are_refused_by_name():
    with pytest.raises(NotImplementedError, match="vmap"):
        vmap(lambda z: integrate(lambda t, z: -z, z[None], "dopri5@1e-3").z[0])(torch.randn(4, 2))


def test_the_adjoint_under_transforms_is_refused_by_name():
    with pytest.raises(NotImplementedError, match="backprop"):
        jacrev(lambda z: integrate(lambda t, z: -z, z, "midpoint@1/4", gradient="adjoint").z)(torch.randn(2, 2))


@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["single", "ensemble"])
@pytest.mark.parametrize("solver", ["midpoint@1/4", "dopri5@1e-3"])
def test_a_compiled_model_trains(native, seed, solver):
    x = torch.randn(6, 1, 2)
    models = [NeuralODE.for_data(Data, solver, channels=8, seed=seed) for _ in range(2)]
    x = models[0].for_members(x)
    torch.compile(models[0], backend="eager")(x).square().sum().backward()
    models[1](x).square().sum().backward()
    for a, b in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(a.grad, b.grad)
    assert models[0].block.nfe == models[1].block.nfe


def test_a_compiled_function_around_integrate_runs():
    net = Tanh()
    compiled = torch.compile(lambda z: 2 * integrate(net, z, "euler@1/4").z, backend="eager")
    z = torch.randn(3, 2)
    torch.testing.assert_close(compiled(z), 2 * integrate(net, z, "euler@1/4").z)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("solver", ["midpoint@1/8", "dopri5@1e-2"])
def test_autocast_solves_in_the_dtype_of_the_state(native, case, gradient, solver):
    field, z = case
    with torch.autocast("cpu", torch.bfloat16):
        end = integrate(field, z, solver, gradient=gradient).z
    assert end.dtype == torch.float32
    end.square().sum().backward()
    low = [p.grad.clone() for p in field.parameters()]
    field.zero_grad()
    exact = integrate(field, z, solver, gradient=gradient).z
    exact.square().sum().backward()
    torch.testing.assert_close(end, exact, rtol=0.1, atol=0.1)
    for a, p in zip(low, field.parameters()):
        assert (a - p.grad).norm() < 0.2 * p.grad.norm() + 0.2
    assert not torch.equal(end, exact)  # the lower precision was really used


def test_autocast_gives_torchdiffeqs_numbers():
    net, z = Tanh(), torch.randn(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        ours = integrate(net, z, "euler@1/8").z
        theirs = torchdiffeq.odeint(net, z, torch.tensor([0.0, 1.0]), method="euler", options=dict(step_size=1 / 8))[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solvers", [["euler@1/4"] * 2, ["euler@1/4", "euler@1/8"], ["dopri5@1e-2"] * 2])
def test_autocast_solves_ensembles(native, case, solvers):
    field, z = case
    if isinstance(field, Tanh):
        field.precision = "fp32"
    stacked = Stacked([field, copy.deepcopy(field)])
    with torch.autocast("cpu", torch.bfloat16):
        end = integrate_members(stacked, torch.stack([z, z]), [Solver.parse(s) for s in solvers])[0]
    assert end.dtype == torch.float32 and end.isfinite().all()
    end.sum().backward()


def test_another_dtype_is_still_refused_without_autocast():
    with pytest.raises(ValueError, match="another dtype"):
        integrate(lambda t, z: z.bfloat16(), torch.ones(2, 2), "euler@1/4")


@pytest.mark.parametrize("strict", [False, True])
def test_export_gives_the_values_or_a_refusal_by_name(case, strict):
    field, z = case
    block = ODEBlock(field, "rk4@1/4")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(block, (z,), strict=strict)
    except Exception as error:
        assert strict and "strict=False" in str(error), error
    else:
        torch.testing.assert_close(exported.module()(z), block(z), rtol=1e-4, atol=1e-5)


def test_exporting_adaptive_steps_is_refused():
    with pytest.raises(NotImplementedError, match="fixed step"):
        torch.export.export(ODEBlock(Tanh(), "dopri5@1e-3"), (torch.randn(2, 2),), strict=False)


def test_a_failure_is_still_a_failure_without_transforms():
    with pytest.raises(SolveError):
        integrate(lambda t, z: z**9, 2 * torch.ones(2, 1), "euler@1/10")
