"""Times: rounding, output times, jumps, ends per sample, gradients of times."""
import math

import pytest
import torch
import torchdiffeq
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neuralode_resnet.solvers import Solver, TABLEAUS, integrate, integrate_members
from neuralode_resnet.solvers.gradients import TORCHDIFFEQ_ADAPTIVE
from neuralode_resnet.solvers.problems import smooth_problems
from neuralode_resnet.solvers.steps import n_steps

one = torch.ones(1, 1)


def decay(t, z):
    return -z


@settings(max_examples=200)
@given(st.integers(1, 400), st.floats(-1, 2), st.floats(0.25, 2))
def test_float32_times_take_no_spurious_step(n, start, length):
    t = torch.linspace(start, start + length, n + 1)
    whole = (t[0].item(), t[-1].item())
    assert n_steps(whole, (whole[1] - whole[0]) / n) == n
    for i in {0, n // 2, n - 1}:
        assert n_steps((t[i].item(), t[i + 1].item()), length / n) == 1


@pytest.mark.parametrize("k", [4, 7, 11, 101])
def test_a_solve_between_float32_times_is_one_step_of_their_distance(k):
    t = torch.linspace(0, 1, k)
    for a, b in zip(t, t[1:]):
        assert integrate(decay, one, Solver("euler", 1 / (k - 1)), (a, b)).n_steps == 1
        assert integrate(decay, one, Solver("euler", 1 / (k - 1)), (a.item(), b.item())).n_steps == 1


def test_a_real_remainder_is_still_a_step():
    assert integrate(decay, one, "euler@0.333333").n_steps == 4
    assert integrate(decay, one.double(), "euler@0.3").n_steps == 4


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("problem", smooth_problems(), ids=lambda p: p.name)
def test_a_state_between_the_nodes_has_the_order_of_the_method(method, problem):
    t0, t1 = problem.t_span
    tau = t0 + 0.61803 * (t1 - t0)
    errors = []
    for h in problem.step_sizes:
        solution = integrate(problem.field, problem.z0, Solver(method, h), problem.t_span, times=[tau])
        errors.append(problem.error(solution.states[0], tau))
    slope = math.log2(errors[0] / errors[-1]) / (len(errors) - 1)
    assert slope > TABLEAUS[method].order - 0.35, errors


@pytest.mark.parametrize("method", TORCHDIFFEQ_ADAPTIVE)
def test_a_state_between_the_nodes_is_as_accurate_as_the_solve(method):
    for problem in smooth_problems():
        times = [problem.t_span[0] + x * (problem.t_span[1] - problem.t_span[0]) for x in (0.13, 0.5, 0.77, 1.0)]
        for tol in (1e-3, 1e-5):
            states = integrate(problem.field, problem.z0, Solver(method, tol=tol), problem.t_span, times=times).states
            exact = integrate(problem.field, problem.z0, "dopri5@1e-10", problem.t_span, times=times).states
            errors = (states - exact).abs().flatten(1).amax(1)
            assert errors[:-1].max() < 20 * max(tol, errors[-1].item()), (problem.name, tol, errors)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("solver", ["euler@0.3", "rk4_38@1/8", "dopri5@h=0.3", "dopri5@1e-6", "bosh3@1e-6"])
def test_asking_for_states_does_not_change_the_solve(solver, backward):
    z0 = torch.rand(4, 2, dtype=torch.float64)
    times = torch.linspace(0, 1, 8, dtype=torch.float64)
    times = times.flip(0) if backward else times
    span = (times[0].item(), times[-1].item())
    plain, asked = integrate(decay, z0, solver, span), integrate(decay, z0, solver, times=times)
    assert torch.equal(plain.z, asked.z) and plain.n_steps == asked.n_steps
    assert asked.states.shape == (8, 4, 2)
    assert torch.equal(asked.states[0], z0) and torch.equal(asked.states[-1], plain.z)


def test_dopri5_reads_the_states_of_torchdiffeq_for_the_same_evaluations():
    w = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z0, times, calls = torch.rand(5, 3, dtype=torch.float64), torch.linspace(0, 2, 9, dtype=torch.float64), []

    def field(t, z):
        calls.append(t)
        return torch.tanh(z @ w + torch.cos(3 * t))

    theirs = torchdiffeq.odeint(field, z0, times, rtol=1e-5, atol=1e-5, method="dopri5")
    nfe = len(calls)
    ours = integrate(field, z0, "dopri5@1e-5", times=times)
    assert ours.nfe == nfe
    torch.testing.assert_close(ours.states, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("solver", ["midpoint@1/64", "dopri5@1e-8"])
def test_states_carry_gradients_by_every_route(solver, gradient):
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    states = integrate(lambda t, z: w * z, one.double(), solver, times=[0.0, 0.3, 0.7, 1.0], gradient=gradient).states
    slope, = torch.autograd.grad(states.sum(), w)
    assert math.isclose(slope, sum(t * math.exp(0.7 * t) for t in (0.3, 0.7, 1.0)), rel_tol=1e-3)


def test_ambiguous_or_wrong_output_times_are_refused():
    for times, words in (([0.5, 1.0], "is z0 the state"), ([], "empty"), ([0.0, 0.5, 0.5], "strictly"), ([1.0], "t_span")):
        with pytest.raises(ValueError, match=words):
            integrate(decay, one, "rk4@1/4", times=times)


@pytest.mark.parametrize("at", [0.4, 0.0, 1.0, 0.123456789])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", ["euler@0.3", "heun@0.3", "rk4@1/2", "dopri5@h=0.3", "heun_euler@1e-4", "bosh3@1e-4",
                                    "fehlberg2@1e-4", "dopri5@1e-6"])
@pytest.mark.parametrize("backward", [False, True])
def test_no_step_crosses_a_jump_and_each_side_sees_its_own_field(solver, dtype, at, backward):
    seen = []

    def field(t, z):
        seen.append(float(t))
        return torch.where(t >= at, 3.0, 1.0).to(z) * torch.ones_like(z)

    span = (1.0, 0.0) if backward else (0.0, 1.0)
    solution = integrate(field, torch.zeros(1, 1, dtype=dtype), solver, span, jumps=(at,), path=True)
    expected = at + 3 * (1 - at)
    assert math.isclose(solution.z.item(), -expected if backward else expected, rel_tol=2e-6)
    assert min(abs(t - at) for t in solution.t.tolist()) < 1e-9
    assert len(solution.path) == solution.n_steps + 1
    assert solution.nfe == len(seen) - 1


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("solver", ["midpoint@0.3", "dopri5@1e-6"])
def test_gradients_pass_a_jump(solver, gradient):
    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def field(t, z):
        return torch.where(t > 0.4, a, 0 * a) + 0 * z

    solution = integrate(field, one.double(), solver, jumps=[0.4], gradient=gradient, adjoint_params=(a,), times=[0.0, 0.4, 0.7, 1.0])
    assert torch.allclose(solution.states.flatten(), torch.tensor([1.0, 1.0, 1.6, 2.2], dtype=torch.float64))
    slope, = torch.autograd.grad(solution.z.sum(), a)
    assert math.isclose(slope, 0.6, rel_tol=1e-6)


def test_every_sample_can_have_an_end():
    ends = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    w = torch.tensor(-0.8, dtype=torch.float64, requires_grad=True)
    for gradient in ("backprop", "checkpoint"):
        solution = integrate(lambda t, z: w * z * torch.cos(t), torch.ones(3, 2).double(), "rk4@1/16", (0.0, ends), gradient=gradient)
        exact = torch.exp(w * torch.sin(ends))[:, None].expand(3, 2)
        torch.testing.assert_close(solution.z, exact, rtol=1e-6, atol=1e-6)
        for ours, theirs in zip(torch.autograd.grad(solution.z.sum(), (ends, w)), torch.autograd.grad(exact.sum(), (ends, w))):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert solution.n_steps == 32 and solution.t.shape == (33, 3, 1)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("solver", ["rk4_38@1/32", "rk4_38@0.3", "dopri5@1e-8", "bosh3@1e-6"])
def test_start_and_end_have_the_gradient_of_the_flow(solver, gradient):
    ends = torch.tensor([0.2, 1.1], dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    z = integrate(lambda t, z: -z * torch.cos(t), z0, solver, (ends[0], ends[1]), gradient=gradient).z
    exact = z0 * torch.exp(torch.sin(ends[0]) - torch.sin(ends[1]))
    ours, theirs = (torch.autograd.grad(end.sum(), ends)[0] for end in (z, exact))
    torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=5e-3)


def test_output_times_have_the_gradient_of_the_flow():
    for solver in ("rk4@1/16", "dopri5@1e-8"):
        for gradient in ("backprop", "checkpoint"):
            times = torch.tensor([0.0, 0.33, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
            states = integrate(decay, one.double(), solver, times=times, gradient=gradient).states
            slope, = torch.autograd.grad(states.sum(), times)
            torch.testing.assert_close(slope[1:], -torch.exp(-times.detach())[1:], rtol=1e-4, atol=1e-4)


def test_times_that_are_float32_tensors_have_gradients_with_native_fields():
    from neuralode_resnet.models import LinearField

    field, z0 = LinearField(2, 8), torch.randn(5, 2)
    end = torch.tensor(1.0, requires_grad=True)
    z = integrate(field, z0, "rk4@1/16", (0.0, end)).z
    slope, = torch.autograd.grad(z.sum(), end)
    assert math.isclose(slope, field(end, z).sum(), rel_tol=1e-3)


def test_states_without_a_batch_axis_and_empty_batches_are_solved():
    for solver in ("rk4@1/8", "dopri5@1e-6"):
        for shape in ((), (3,), (0, 2)):
            end = integrate(decay, torch.ones(shape), solver).z
            assert end.shape == shape
            assert torch.allclose(end, torch.tensor(-1.0).exp(), atol=1e-4)


def test_a_complex_state_is_told_of_view_as_real():
    with pytest.raises(TypeError, match="view_as_real"):
        integrate(decay, torch.ones(2, 1, dtype=torch.complex64), "rk4@1/4")


class WithoutFloat64(TorchDispatchMode):
    "Raises where a float64 tensor is made on the meta device, which stands for a device that has none."
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in filter(torch.is_tensor, tree_leaves(result)):
            assert not (t.device.type == "meta" and t.dtype == torch.float64), function
        return result


def test_no_float64_reaches_a_device_that_may_not_have_it():
    z0 = torch.ones(3, 2, device="meta")
    with WithoutFloat64():
        for times in (None, [0.0, 0.3, 1.0]):
            integrate(decay, z0, "rk4@0.3", times=times, allow_nonfinite=True)
        integrate(decay, z0, "rk4@0.3", jumps=(0.5,), allow_nonfinite=True)
        integrate(decay, z0, "rk4@0.3", (0.0, torch.tensor([1.0, 2.0, 3.0])), allow_nonfinite=True)
        solvers = [Solver("rk4", h) for h in (0.3, 0.5, 1.0)]
        integrate_members(decay, torch.ones(3, 4, 2, device="meta"), solvers)
