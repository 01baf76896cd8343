"""One bad sample marks itself, never its batch."""
import math

import pytest
import torch

from neuralode_resnet.solvers import SolveError, Solver, integrate
from neuralode_resnet.solvers.solver import _ISOLATION_BUDGET


def runaway(t, z):
    return torch.where(z > 1, 8 * z**2, -z)


@pytest.mark.parametrize("solver", ["euler@1/32", "rk4@1/32", "dopri5@1e-3", "heun_euler@1e-3", "bosh3@1e-5"])
@pytest.mark.parametrize("bad", [[], [5], [0, 99], [*range(0, 100, 3)], [*range(100)]])
def test_exactly_the_bad_samples_are_marked_and_the_others_are_solved(solver, bad):
    z0 = torch.rand(100, 2, generator=torch.Generator().manual_seed(0)).double() * 0.9
    for i in bad:
        z0[i, i % 2] = (3.0, math.nan, math.inf, 2.0 + i)[i % 4]
    found = integrate(runaway, z0, solver, mark_unsolved=True)
    assert found.unsolved.nonzero().flatten().tolist() == bad
    good = ~found.unsolved
    if good.any():
        torch.testing.assert_close(found.z[good], z0[good] * math.exp(-1), rtol=2e-2, atol=2e-2)
        assert found.n_steps > 0 and math.isfinite(found.nfe)
    else:
        assert found.n_steps == 0 or Solver.parse(solver).fixed
    if bad and not Solver.parse(solver).fixed:
        with pytest.raises(SolveError):
            integrate(runaway, z0, solver)


def test_a_stiff_sample_is_isolated_and_the_cost_is_bounded():
    calls = 0

    def field(t, z):
        nonlocal calls
        calls += 1
        return torch.stack([-z[:, 0] * z[:, 1], 0 * z[:, 1]], 1)

    z0 = torch.ones(64, 2).double()
    z0[7, 1] = 1e6
    found = integrate(field, z0, "dopri5@1e-6", max_nfe=500, mark_unsolved=True)
    assert found.unsolved.nonzero().flatten().tolist() == [7]
    calls, z0[:, 1] = 0, 1e6 * (1 + torch.arange(64.0))
    found = integrate(field, z0, "dopri5@1e-6", max_nfe=500, mark_unsolved=True)
    assert found.unsolved.all()
    assert calls < 1.2 * _ISOLATION_BUDGET * 500


def test_gradients_pass_the_samples_that_are_solved():
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[0.5], [3.0], [-1.0]], dtype=torch.float64)
    found = integrate(lambda t, z: w * torch.where(z > 2, z**6, -z), z0, "dopri5@1e-6", mark_unsolved=True)
    slope, = torch.autograd.grad(found.z[~found.unsolved].sum(), w)
    assert math.isclose(slope, 0.5 * math.exp(-1), rel_tol=1e-3)


def test_marking_gives_end_states_only():
    for wish in (dict(path=True), dict(times=[0.0, 0.5])):
        with pytest.raises(ValueError, match="end states only"):
            integrate(runaway, torch.ones(3, 2), "dopri5@1e-3", mark_unsolved=True, **wish)


def test_a_wrong_field_is_still_refused():
    with pytest.raises(ValueError, match="another shape"):
        integrate(lambda t, z: z.sum(0), torch.ones(3, 2), "dopri5@1e-3", mark_unsolved=True)
