"""Properties of solving over the whole matrix: method × accuracy × dtype × batch × shape × gradient."""
import math

import pytest
import torch
import torchdiffeq
from hypothesis import given, settings, strategies as st

from neuralode_resnet.models import Conv1dField, LinearField, Stacked, init_kaiming
from neuralode_resnet.solvers.stacks import recognise
from neuralode_resnet.solvers import GRADIENTS, Solver, TABLEAUS, integrate, kernel, native
from neuralode_resnet.solvers.steps import fixed_grid, grid_nfe

ADAPTIVE = [name for name, tableau in TABLEAUS.items() if tableau.adaptive]
SOLVERS = [f"{name}@{'h=' if name in ADAPTIVE else ''}0.3" for name in TABLEAUS] + [f"{name}@1e-3" for name in ADAPTIVE]
steps = st.floats(1e-4, 1.0, allow_nan=False)


@given(st.sampled_from(list(TABLEAUS)), steps)
def test_a_fixed_step_solver_survives_being_written_and_read(method, h):
    assert Solver.parse(str(Solver(method, h))) == Solver(method, h)


@given(st.sampled_from(ADAPTIVE), st.floats(1e-12, 1.0), st.floats(1e-12, 1.0))
def test_an_adaptive_solver_survives_being_written_and_read(method, rtol, atol):
    solver = Solver(method, rtol=rtol, atol=atol)
    assert Solver.parse(str(solver)) == solver


@settings(max_examples=50)
@given(st.sampled_from(list(TABLEAUS)), steps, st.floats(-3, 3), st.floats(0.5, 2))
def test_a_grid_covers_its_interval_with_no_step_longer_than_asked_for(method, h, start, length):
    tableau = TABLEAUS[method]
    grid = fixed_grid(tableau, (start, start + length), h * length)
    assert math.isclose(sum(step.h for step in grid), length, rel_tol=1e-9)
    assert max(step.h for step in grid) <= h * length * (1 + 1e-9) and min(step.h for step in grid) > 0
    assert len(grid) == math.ceil(1 / h * (1 - 1e-12)) or math.isclose(len(grid), 1 / h, rel_tol=1e-9, abs_tol=1)
    owned = [e for step in grid for e in range(step.first, step.first + tableau.stages - step.reuse)]
    assert owned == list(range(grid_nfe(tableau, grid)))  # every evaluation belongs to exactly one step


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 2), (5, 1, 3), (2, 3, 4, 4)])
@pytest.mark.parametrize("t_span", [(0.0, 1.0), (1.0, 0.0)])
def test_the_state_keeps_shape_and_dtype_and_nothing_is_evaluated_uncounted(solver, dtype, shape, t_span):
    calls = []

    def field(t, z):
        calls.append((t.shape, t.dtype))
        return -z * torch.cos(t)

    solution = integrate(field, torch.ones(shape, dtype=dtype), solver, t_span=t_span, path=True)
    assert solution.z.shape == shape and solution.z.dtype == dtype
    assert solution.path.shape == (solution.n_steps + 1, *shape) and torch.equal(solution.path[-1], solution.z)
    assert set(calls) == {(torch.Size(), dtype)}
    assert solution.nfe == len(calls) - 1  # one more shows, before the solve, that the field returns what it must
    assert math.isclose(solution.t[0], t_span[0]) and math.isclose(solution.t[-1], t_span[1], abs_tol=1e-9)


def made_field(kind, members):
    make = (lambda: Conv1dField(6)) if kind == "conv1d" else (lambda: LinearField(3, 6))
    fields = [init_kaiming(make(), torch.Generator().manual_seed(seed)).double() for seed in range(max(members, 1))]
    return Stacked(fields) if members else fields[0]


@pytest.mark.parametrize("solver", ["euler@1/8", "midpoint@0.3", "rk4@1/2", "bosh3@h=0.3", "dopri5@1/3"])
@pytest.mark.parametrize("kind", ["conv1d", "linear"])
@pytest.mark.parametrize("members", [0, 3])
def test_folded_and_unfolded_fields_give_the_same_states_and_gradients(solver, kind, members):
    field = made_field(kind, members)
    shape = ((members,) if members else ()) + ((4, 1, 3) if kind == "conv1d" else (4, 3))
    z0 = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    parameters = [z0, *field.parameters()]
    results = []
    for f in (field, lambda t, z: field(t, z)):  # the lambda hides the layers
        z = integrate(f, z0, solver).z
        results.append([z, *torch.autograd.grad(z.square().sum(), parameters)])
    for folded, plain in zip(*results):
        torch.testing.assert_close(folded, plain, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_gradient_of_a_folded_field_is_that_of_the_ode(gradient):
    field = made_field("linear", 0)
    z0 = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = torch.autograd.grad(integrate(field, z0, "dopri5@1e-10").z.sum(), [*field.parameters()])
    found = torch.autograd.grad(integrate(field, z0, "rk4_38@1/256", gradient=gradient).z.sum(), [*field.parameters()])
    for a, b in zip(exact, found):  # a kink of the ReLU inside a step costs O(h), whatever the order of the method
        assert (a - b).norm() < 5e-3 * a.norm()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ours, theirs", [("dopri5", "dopri5"), ("bosh3", "bosh3"), ("fehlberg2", "fehlberg2"),
                                          ("heun_euler", "adaptive_heun")])
def test_folded_fields_take_the_evaluations_of_torchdiffeq(seed, ours, theirs):
    field = init_kaiming(Conv1dField(32), torch.Generator().manual_seed(seed)).double()
    z0 = torch.rand(16, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    calls = []
    end = torchdiffeq.odeint(lambda t, z: calls.append(t) or field(t, z), z0, torch.tensor([0.0, 1.0]).double(),
                             rtol=1e-3, atol=1e-3, method=theirs)[-1]
    solution = integrate(field, z0, Solver(ours, tol=1e-3))
    assert solution.nfe == len(calls)
    torch.testing.assert_close(solution.z, end, rtol=1e-6, atol=1e-9)


def test_torch_func_looks_into_a_solve():
    field = made_field("linear", 0)
    z0 = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    end = lambda z: integrate(lambda t, s: field(t, s), z[None], "rk4@1/8", allow_nonfinite=True).z[0]
    folded = lambda z: integrate(field, z[None], "rk4@1/8", allow_nonfinite=True).z[0]
    torch.testing.assert_close(torch.func.jacrev(folded)(z0), torch.func.jacrev(end)(z0))
    torch.testing.assert_close(torch.func.jacfwd(folded)(z0), torch.func.jacrev(end)(z0))


@pytest.mark.parametrize("solver", SOLVERS[:len(TABLEAUS)])
@pytest.mark.parametrize("members", [0, 3])
def test_native_solves_give_the_states_and_gradients_of_the_walk(solver, members, monkeypatch):
    field = made_field("linear", members).float()
    z0 = torch.randn(((members,) if members else ()) + (70, 3), generator=torch.Generator().manual_seed(1))
    results = []
    for switch in ("1", "0"):
        monkeypatch.setenv("NEURALODE_RESNET_NATIVE", switch)
        assert native.usable(recognise(field, z0), z0) is (switch == "1") or kernel.library() is None
        solution = integrate(field, z0, solver)
        results.append([solution.z, *torch.autograd.grad(solution.z.square().sum(), [*field.parameters()])])
    assert integrate(field, z0, solver).nfe == solution.nfe
    for quick, slow in zip(*results):
        assert (quick - slow).norm() <= 1e-4 * slow.norm()
