"""What public code does around its solves must not stop an audit, or stops it with a sentence that helps."""
import importlib
import warnings

import pytest
import torch
from neuralode_resnet.audit import audit
from torch import nn
from torchdiffeq import odeint

POINTS = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
SPAN = torch.tensor([0., 1.])


@pytest.fixture(autouse=True)
def strict():
    "No audit warns."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Field(nn.Linear):
    def forward(self, t, z):
        return torch.tanh(super().forward(z))


class Model(nn.Module):
    def __init__(self, **solver):
        super().__init__()
        torch.manual_seed(0)
        self.field, self.solver = Field(2, 2), solver

    def forward(self, x):
        return odeint(self.field, x, SPAN.to(x), **self.solver)[-1]


RK4 = dict(method="rk4", options=dict(step_size=.25))


@pytest.mark.parametrize("solver", ["euler", "dopri5"])
def test_a_trajectory_of_torchdyn(solver):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = pytest.importorskip("torchdyn.core")
        torch.manual_seed(0)
        field = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        model = core.NeuralODE(field, solver=solver)
    report = audit(lambda x: model.trajectory(x, torch.linspace(0, 1, 11))[-1], POINTS, compare="value", change=.05)
    assert report.verdict == "ODE", f"\n{report}"
    assert report.blocks.evaluations[0] > 5 and "trajectory" not in vars(model)


def compiled():
    return torch.compile(Model(**RK4), backend="eager")


def compiled_in_place():
    model = Model(**RK4)
    model.compile(backend="eager")
    return model


def with_a_compiled_field():
    model = Model(method="dopri5", rtol=1e-4, atol=1e-4)
    model.field = torch.compile(model.field, backend="eager")
    return model


@pytest.mark.parametrize("make", [compiled, compiled_in_place, with_a_compiled_field])
def test_compiled_models(make):
    report = audit(make(), POINTS, compare="class", quick=True)
    assert report.verdict == "ODE" and "share" in report.rounding, f"\n{report}"


class DefaultDtype(nn.Module):
    "Makes tensors of the default dtype within the forward pass."
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        more = torch.zeros(len(x), 1)
        return odeint(lambda t, z: torch.tanh(self.layer(torch.cat([z, more + t], 1))), x, torch.linspace(0, 1, 5), rtol=1e-5, atol=1e-5)[-1]


class Plain:
    "An object without `forward`, which counts."
    def __init__(self):
        torch.manual_seed(0)
        self.layer, self.calls = nn.Linear(2, 2), 0

    def __call__(self, x):
        self.calls += 1
        return odeint(self.field, x, SPAN.to(x), **RK4)[-1]

    def field(self, t, z):
        return torch.tanh(self.layer(z))


def plain_function(x):
    return odeint(lambda t, z: torch.sin(z.flip(1)), x, SPAN.to(x), rtol=1e-5, atol=1e-5)[-1]


@pytest.mark.parametrize("model", [DefaultDtype(), Plain(), Plain().__call__, plain_function], ids=["default dtype", "object", "method", "function"])
def test_float64_runs_of(model):
    report = audit(model, POINTS, compare="class", quick=True)
    assert report.verdict == "ODE" and "share" in report.rounding, f"\n{report}"
    assert getattr(model, "calls", 0) == 0


def test_a_variable_that_is_not_assigned():
    def make(exact):
        if not exact:
            noise = 1.
        def field(t, z):
            return -z if exact else -z * noise
        return lambda x: odeint(field, x, SPAN, **RK4)[-1]
    assert audit(make(True), POINTS, compare="value", quick=True).verdict == "ODE"


def test_an_output_whose_shape_depends_on_the_solver():
    def model(x):
        calls = []
        def field(t, z):
            calls.append(t)
            return -z
        z = odeint(field, x, SPAN, rtol=1e-4, atol=1e-4)[-1]
        return z[: 50 + len(calls)]
    with pytest.raises(ValueError, match=r"\(\d+, 2\) and \(\d+, 2\)"):
        audit(model, POINTS, compare="value")


def raising(kind):
    def model(x):
        def field(t, z):
            if (z > 8).any():
                raise kind("a state is too large")
            return z
        return odeint(field, x, SPAN, method="euler")[-1]
    return model


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, AssertionError, ZeroDivisionError])
def test_an_exception_keeps_its_kind_and_says_which_sample(kind):
    x = POINTS.clone()
    x[17] = 9.
    with pytest.raises(kind, match="a state is too large .*of sample 17"):
        audit(raising(kind), x, compare="value")
    with pytest.raises(kind) as error:  # every sample
        audit(raising(kind), x + 20, compare="value")
    assert "of sample" not in str(error.value)


OLD = """
import torch
class FixedGridODESolver(object):
    def __init__(self, func, y0, step_size=None, grid_constructor=None, **unused):
        unused.pop("rtol", None); unused.pop("atol", None)
        self.func, self.y0, self.eps = func, y0, 0.
        if step_size is not None and grid_constructor is None:
            self.grid_constructor = self._grid(step_size)
        else: self.grid_constructor = grid_constructor or (lambda f, y0, t: t)
    def _grid(self, h):
        def g(func, y0, t):
            n = int(torch.ceil((t[-1] - t[0]) / h + 1).item()); s = torch.arange(0, n).to(t) * h + t[0]
            if s[-1] > t[-1]: s[-1] = t[-1]
            return s
        return g
    def integrate(self, t):
        grid = self.grid_constructor(self.func, self.y0, t); out = [self.y0]; j = 1; y0 = self.y0
        for t0, t1 in zip(grid[:-1], grid[1:]):
            dy = self.step_func(self.func, t0, t1 - t0, y0); y1 = tuple(a + b for a, b in zip(y0, dy))
            while j < len(t) and t1 >= t[j]:
                out.append(tuple(a if t[j] == t0 else b if t[j] == t1 else a + (b - a) * (t[j] - t0) / (t1 - t0) for a, b in zip(y0, y1))); j += 1
            y0 = y1
        return tuple(map(torch.stack, tuple(zip(*out))))
class Euler(FixedGridODESolver):
    def step_func(self, func, t, dt, y): return tuple(dt * f for f in func(t, y))
    @property
    def order(self): return 1
class RK4(FixedGridODESolver):
    def step_func(self, func, t, dt, y):
        k1 = func(t, y); k2 = func(t + dt/2, tuple(a + dt/2*b for a, b in zip(y, k1))); k3 = func(t + dt/2, tuple(a + dt/2*b for a, b in zip(y, k2)))
        k4 = func(t + dt, tuple(a + dt*b for a, b in zip(y, k3))); return tuple(dt/6*(a+2*b+2*c+d) for a, b, c, d in zip(k1, k2, k3, k4))
    @property
    def order(self): return 4
SOLVERS = {"euler": Euler, "rk4": RK4}
def odeint(func, y0, t, rtol=1e-7, atol=1e-9, method=None, options=None):
    f = lambda t, y: (func(t, y[0]),)
    return SOLVERS[method](f, (y0,), rtol=rtol, atol=atol, **(options or {})).integrate(t)[0]
"""


def test_a_copy_of_the_generation_of_tuples(tmp_path, monkeypatch):
    (tmp_path / "old_solvers.py").write_text(OLD)
    monkeypatch.syspath_prepend(tmp_path)
    old = importlib.import_module("old_solvers")
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    for strength, verdict in ((.1, "ODE"), (60., "ResNet")):
        def model(x):
            field = lambda t, z: strength * torch.sin(layer(z))
            return old.odeint(field, x, SPAN.to(x), method="euler", options=dict(step_size=.1))[-1]
        report = audit(model, POINTS, compare="class", module="old_solvers")
        assert report.verdict == verdict, f"\n{report}"
        assert "rk4, 20 steps" in report.swaps.solver.tolist()


# One state

TIMES = torch.linspace(0, 1, 6)


def one_state(last, **solver):
    def model(z):
        path = odeint(lambda t, z: torch.sin(3 * z.flip(-1)), z, TIMES, **solver)
        return path[-1] if last else path
    return model


@pytest.mark.parametrize("last", [False, True], ids=["path", "end"])
@pytest.mark.parametrize("z", [torch.tensor([.3, -.7]), torch.tensor([[.3, -.7]])], ids=["state", "batch of one"])
@pytest.mark.parametrize("solver, verdict", [(dict(method="euler", options=dict(step_size=.1)), "ResNet"), (dict(method="rk4", options=dict(step_size=.1)), "ODE"),
                                             (dict(rtol=1e-6, atol=1e-6), "ODE")], ids=["euler", "rk4", "dopri5"])
def test_one_state_is_judged_output_by_output(solver, verdict, z, last):
    report = audit(one_state(last, **solver), z, compare="value", quick=True)
    assert report.verdict == verdict, f"\n{report}"
    assert report.settings["judged"] != "samples" and "audit about" not in report.todo
    assert "95 %" not in str(report).splitlines()[0]  # no share is estimated from one path
    assert report.settings["cost"]["passes"] <= report.settings["cost"]["limit"]


# What it costs

class Image(nn.Module):
    "Two ODE blocks with convolutions on states of 16 × 13 × 13 numbers, Euler with ten steps."
    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(1, width, 4, 2), nn.Linear(width, 10)

        def field():
            return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        self.first, self.second = field(), field()

    def forward(self, x):
        z = self.stem(x)
        for net in (self.first, self.second):
            z = odeint(lambda t, z: net(z), z, SPAN.to(z), method="euler", options=dict(step_size=.1))[-1]
        return self.head(z.mean((2, 3)))


def test_a_verdict_costs_forty_forward_passes():
    "Counted by the model itself: evaluations of its fields, each weighted by its share of the samples."
    n = 60  # 200 of them, and wider ones, cost the same number of passes
    model, x = Image(), torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    spent = []
    for net in (model.first, model.second):
        net.register_forward_pre_hook(lambda net, args: spent.append(len(args[0]) / n))
    with torch.no_grad():
        model(x)
    own = sum(spent)
    spent.clear()
    report = audit(model, x, compare="value", parts="verdict")
    assert own == 20 and sum(spent) / own <= 40, sum(spent) / own
    assert abs(sum(spent) / own - report.settings["cost"]["passes"]) < 2, (sum(spent) / own, report.settings["cost"])
    assert any("not examined: blocks, geometry, repair, saving" in said for said in report.notes)


@pytest.mark.parametrize("passes", [12, 20, 40, 400])
def test_a_verdict_keeps_its_limit_and_says_what_it_left_out(passes):
    report = audit(Model(method="euler", options=dict(step_size=.1)), POINTS, compare="class", parts="verdict", passes=passes)
    cost = report.settings["cost"]
    assert cost["limit"] == passes and cost["passes"] <= max(passes, 19), cost  # 18: two own runs, float64, half steps, rk4
    assert any("was left out" in said for said in report.notes) == (passes < 40), report.notes


def test_chunks_give_the_same_verdict():
    whole, chunks = (audit(Model(**RK4), POINTS, compare="class", quick=True, batch_size=size) for size in (None, 64))
    assert whole.verdict == chunks.verdict and chunks.settings["cost"]["batch_size"] == 64
    assert whole.swaps.changed.tolist() == chunks.swaps.changed.tolist()
    assert chunks.settings["cost"]["passes"] < 45, chunks.settings["cost"]


def test_samples_that_belong_together_are_not_taken_apart():
    def graph(x):
        return odeint(lambda t, z: z.mean(0) - z, x, SPAN.to(x), **RK4)[-1]
    with pytest.raises(ValueError, match="belong together"):
        audit(graph, POINTS, compare="value", batch_size=50)
    with pytest.raises(ValueError, match="whole number"):
        audit(graph, POINTS, compare="value", batch_size=0)


def test_no_progress_is_printed_into_a_log(capsys):
    audit(Model(**RK4), POINTS, compare="class", quick=True)
    printed = capsys.readouterr()
    assert printed.err == printed.out == ""


def test_times_of_one_path_are_not_counted_as_independent_samples():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def path(z):
        return odeint(lambda t, z: net(z), z, torch.linspace(0, 5, 50), method="euler", options=dict(step_size=.1))

    report = audit(path, torch.tensor([[1., 0.]]), compare="value")
    text = str(report)
    assert (report.swaps.low == report.swaps.high).all()
    assert "interval" not in text and "would (95 %" not in text, text
    assert report.distributions == {} and "another draw of the noise" not in text
    assert "times of the path change with the same solver in float64" in text
    assert text.splitlines()[0].startswith(f"{report.swaps.changed.iloc[-1]} of 50 times of the path change")
