"Libraries that people solve with are audited as they are; where one is not installed, its test is skipped."
import pytest
import torch
from torch import nn

from neuralode_resnet.audit import audit


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)
        nn.init.constant_(self.net.bias, .3)

    def forward(self, t, z, args=None, **more):
        return torch.tanh(self.net(z))


@pytest.fixture
def z():
    torch.manual_seed(0)
    return torch.randn(200, 2)


VALUE = dict(compare="value", change=.01)


def verdicts(make, z):
    "The verdicts of a coarse and of an accurate solver."
    return [audit(make(accurate), z, **VALUE).verdict for accurate in (False, True)]


@pytest.mark.parametrize("call", ["forward", "trajectory"])
def test_torchdyn(z, call):
    core = pytest.importorskip("torchdyn.core")
    field = Field()

    class Model(nn.Module):
        def __init__(self, accurate):
            super().__init__()
            method, steps = ("rk4", 8) if accurate else ("euler", 1)
            self.ode = core.NeuralODE(field, solver=method)
            self.t = torch.linspace(0, 1, steps + 1)

        def forward(self, z):
            if call == "trajectory":
                return self.ode.trajectory(z, self.t)[-1]
            return self.ode(z, self.t)[1][-1]

    assert verdicts(Model, z) == ["ResNet", "ODE"]


def test_flow_matching_samples_through_torchdiffeq(z):
    solver = pytest.importorskip("flow_matching.solver")
    field = Field()

    class Velocity(nn.Module):
        def __init__(self):
            super().__init__()
            self.field = field

        def forward(self, x, t, **extras):
            return self.field(t, x)

    class Sampler(nn.Module):
        def __init__(self, accurate):
            super().__init__()
            self.velocity = Velocity()
            self.step, self.method = (.1, "midpoint") if accurate else (1., "euler")

        def forward(self, x):
            own = solver.ODESolver(velocity_model=self.velocity)
            return own.sample(x_init=x, method=self.method, step_size=self.step)

    assert verdicts(Sampler, z) == ["ResNet", "ODE"]


def test_diffrax_through_a_callable_that_takes_refine(z):
    pytest.importorskip("jax")
    diffrax = pytest.importorskip("diffrax")
    import jax.numpy as jnp

    def make(steps, solver):
        def model(x, refine=1):
            term = diffrax.ODETerm(lambda t, y, args: jnp.tanh(y + .3))
            n = steps * refine
            grid = jnp.linspace(0, 1, n + 1)
            solution = diffrax.diffeqsolve(term, solver, 0., 1., None, jnp.asarray(x.numpy()),
                                           stepsize_controller=diffrax.StepTo(grid), max_steps=n + 1)
            return torch.tensor(solution.ys[-1].tolist())
        return model

    assert audit(make(1, diffrax.Euler()), z, **VALUE).verdict == "ResNet"
    assert audit(make(32, diffrax.Midpoint()), z, **VALUE).verdict == "ODE"
