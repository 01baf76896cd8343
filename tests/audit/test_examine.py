"""Models as public code has them, written against torchdiffeq and audited unchanged.

Each is trained here for a few seconds: two that step once through their interval must be found out, three with small
tolerances must pass. None of their code knows of this package.
"""
import copy
import importlib
import json
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torchdiffeq
from house import ROOT
from neuralode_resnet.audit import Target, assert_solver_independent, audit, torchdiffeq_solver
from neuralode_resnet.audit.report import as_json, as_markdown
from neuralode_resnet.audit.targets import Outcome
from neuralode_resnet.solvers import Solver
from torch import nn
from torch.nn import functional as F
from torchdiffeq import odeint, odeint_adjoint, odeint_event

pytestmark = pytest.mark.filterwarnings("ignore")


def trained(model, loss, steps, lr=1e-2):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()
    return model


def snapshot(model):
    "Everything that an audit must leave alone."
    return (copy.deepcopy(model.state_dict()), [m.training for m in model.modules()],
            [None if p.grad is None else p.grad.clone() for p in model.parameters()],
            torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.all(a == b))


# An ODE-Net with convolutional blocks, on scikit-learn's small digits

class ConcatConv2d(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.layer = nn.Conv2d(dim + 1, dim, 3, padding=1)

    def forward(self, t, x):
        return self.layer(torch.cat([torch.ones_like(x[:, :1]) * t, x], 1))


class ODEfunc(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, dim), nn.GroupNorm(4, dim)
        self.conv1, self.conv2 = ConcatConv2d(dim), ConcatConv2d(dim)
        self.nfe = 0

    def forward(self, t, x):
        self.nfe += 1
        return self.conv2(t, F.relu(self.norm2(self.conv1(t, F.relu(self.norm1(x))))))


class ODENet(nn.Module):
    def __init__(self, dim=8, **solver):
        super().__init__()
        self.downsample, self.odefunc, self.solver = nn.Conv2d(1, dim, 3, 2, 1), ODEfunc(dim), solver
        self.head = nn.Sequential(nn.GroupNorm(4, dim), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(dim, 10))
        self.integration_time = torch.tensor([0, 1]).float()

    def forward(self, x):
        x = self.downsample(x)
        self.integration_time = self.integration_time.type_as(x)
        return self.head(odeint_adjoint(self.odefunc, x, self.integration_time, **self.solver)[1])


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)


@pytest.mark.parametrize("solver, verdict", [(dict(rtol=1e-3, atol=1e-3), "ODE"), (dict(method="euler"), "ResNet")],
                         ids=["dopri5", "one Euler step"])
def test_ode_net(digits, solver, verdict):
    x, y = digits
    torch.manual_seed(0)
    batches = torch.randint(1200, (60, 64))
    model = trained(ODENet(**solver), lambda m, i: F.cross_entropy(m(x[batches[i]]), y[batches[i]]), 60)
    report = audit(model, x[1200:1500], y[1200:1500])
    assert report.verdict == verdict, f"\n{report}"
    assert report.blocks.block.tolist() == ["odefunc"]
    assert any("depends on time" in said for said in report.traps)
    assert any("no step_size" in said for said in report.traps) == (verdict == "ResNet")


# An augmented Neural ODE on concentric circles

class ANODE(nn.Module):
    def __init__(self, hidden=32, augment=2):
        super().__init__()
        self.augment, dim = augment, 2 + augment
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.Softplus(), nn.Linear(hidden, dim))
        self.linear = nn.Linear(dim, 2)

    def dynamics(self, t, z):
        return self.net(z)

    def forward(self, x):
        z = torch.cat([x, torch.zeros(len(x), self.augment).to(x)], 1)
        return self.linear(odeint(self.dynamics, z, torch.tensor([0., 1.]).to(x), method="rk4", options=dict(step_size=.1))[-1])


def circles(n):
    angle, y = torch.rand(n) * 2 * np.pi, torch.randint(2, (n,))
    return torch.stack([angle.cos(), angle.sin()], 1) * (1 + y + .1 * torch.randn(n))[:, None], y


@pytest.fixture(scope="module")
def anode():
    torch.manual_seed(0)
    x, y = circles(512)
    return trained(ANODE(), lambda m, i: F.cross_entropy(m(x), y), 120), circles(400)


def test_augmented_neural_ode(anode):
    model, (x, y) = anode
    report = audit(model, x, y)
    assert report.verdict == "ODE", f"\n{report}"
    assert report.certified["share"] > .9 and report.certified["changed"] == 0
    assert_solver_independent(model, x, compare="class")


def test_an_audit_leaves_no_trace(anode):
    model, (x, y) = anode
    model = copy.deepcopy(model)
    model.net[1] = nn.Sequential(nn.BatchNorm1d(32), nn.Softplus())
    model.train(), model.net[0].eval()
    F.cross_entropy(model(x), y).backward()
    before = snapshot(model)
    audit(model, x, y)
    assert same(before, snapshot(model))


# A latent ODE of spirals: a recurrent encoder, a sampled latent state, a decoder

class LatentODE(nn.Module):
    def __init__(self, latent=4, hidden=20):
        super().__init__()
        self.rnn, self.to_z = nn.GRU(2, hidden, batch_first=True), nn.Linear(hidden, 2 * latent)
        self.func = nn.Sequential(nn.Linear(latent, hidden), nn.ELU(), nn.Linear(hidden, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, trajs, ts):
        mean, logvar = self.to_z(self.rnn(trajs.flip(1))[0][:, -1]).chunk(2, 1)
        z0 = mean + torch.randn_like(mean) * torch.exp(.5 * logvar)
        pred_z = odeint(lambda t, z: self.func(z), z0, ts).permute(1, 0, 2)
        return self.decoder(pred_z), mean, logvar


def spirals(n, ts):
    phase = torch.rand(n, 1) * 2 * np.pi
    angle, radius = ts[None] + phase, 1 + .3 * ts[None] + 0 * phase
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1) + .02 * torch.randn(n, len(ts), 2)


def test_latent_ode():
    torch.manual_seed(0)
    ts = torch.linspace(0, 3, 12)
    trajs = spirals(120, ts)

    def loss(model, step):
        pred, mean, logvar = model(trajs, ts)
        return ((pred - trajs) ** 2).mean() + 1e-3 * (mean ** 2 + logvar.exp() - logvar - 1).mean()
    model = trained(LatentODE(), loss, 40)
    report = audit(model, (trajs, ts), compare="value", output=lambda out: out[0], tolerance=.1)
    assert report.verdict == "ODE", f"\n{report}"
    assert report.blocks.solver[0].startswith("dopri5") and "float64" not in report.rounding.get("reason", "")
    with pytest.raises(ValueError, match="returns tuple"):
        audit(model, (trajs, ts), compare="value")


# A planar continuous normalising flow, trained by maximum likelihood: a tuple for a state, and time that runs backward

class CNF(nn.Module):
    def __init__(self, hidden=16, width=8):
        super().__init__()
        self.fc1, self.fc2, self.width = nn.Linear(1, hidden), nn.Linear(hidden, 5 * width), width

    def forward(self, t, states):
        z, n = states[0], len(states[0])
        with torch.set_grad_enabled(True):
            z.requires_grad_(True)
            params = self.fc2(torch.tanh(self.fc1(t.reshape(1, 1)))).view(5, self.width)
            W, U, B = params[:2].T, params[2:4].T, params[4]
            h = torch.tanh(z @ W.T + B)
            dz = h @ U / self.width
            trace = sum(torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
        return dz, -trace.view(n, 1)


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.func = CNF()

    def forward(self, x):
        z, dlogp = odeint_adjoint(self.func, (x, torch.zeros(len(x), 1).to(x)), torch.tensor([1., 0.]).to(x),
                                  atol=1e-5, rtol=1e-5, method="dopri5")
        return (-.5 * z[-1] ** 2 - .5 * np.log(2 * np.pi)).sum(1, keepdim=True) - dlogp[-1]


def test_planar_cnf():
    torch.manual_seed(0)
    x = circles(300)[0]
    model = trained(Flow(), lambda m, i: -m(x).mean(), 15)
    report = audit(model, x, compare="value")
    assert report.verdict == "ODE", f"\n{report}"
    assert report.certified["changed"] == 0


# A graph ODE: diffusion with attention on a graph, one Euler step of length 6

class GraphODE(nn.Module):
    def __init__(self, adjacency, features, hidden=16, time=6.):
        super().__init__()
        self.adjacency, self.time = adjacency, time
        self.encoder, self.q, self.k = nn.Linear(features, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.weight, self.decoder = nn.Linear(hidden, hidden), nn.Linear(hidden, 3)

    def rhs(self, t, x):
        scores = (self.q(x) @ self.k(x).T / 4).masked_fill(self.adjacency == 0, -1e9)
        return torch.softmax(scores, -1) @ torch.tanh(self.weight(x)) - x

    def forward(self, x):
        t = torch.tensor([0., self.time]).to(x)
        return self.decoder(odeint(self.rhs, self.encoder(x), t, method="euler", options=dict(step_size=self.time))[1])


def test_graph_ode():
    torch.manual_seed(0)
    n = 240
    y = torch.arange(n) % 3
    same_class = y[:, None] == y[None]
    adjacency = (torch.rand(n, n) < torch.where(same_class, .06, .01)).float() + torch.eye(n)
    x = F.one_hot(y, 3).float() + 1.2 * torch.randn(n, 3)
    model = trained(GraphODE(adjacency, 3), lambda m, i: F.cross_entropy(m(x)[:180], y[:180]), 100)
    report = audit(model, x, y)
    assert report.verdict == "ResNet", f"\n{report}"
    assert report.blocks.solver.tolist() == ["euler, 1 step"] and report.geometry[0]["crossings"] is None
    with pytest.raises(AssertionError, match="ResNet, more than"):
        assert_solver_independent(model, x, compare="class")


# Own loops, several blocks, torchdyn

class Loop(nn.Module):
    def __init__(self, layer, steps):
        super().__init__()
        self.layer, self.steps = layer, steps

    def forward(self, x, refine=1):
        h = 1 / (self.steps * refine)
        for _ in range(self.steps * refine):
            x = x + h * self.layer(x)
        return x


@pytest.mark.parametrize("strength, verdict", [(.5, "ODE"), (9., "ResNet")])
def test_own_loop(strength, verdict):
    torch.manual_seed(0)
    report = audit(Loop(lambda x: strength * torch.sin(x.flip(1)), 4), torch.randn(400, 2), compare="value", change=.1)
    assert report.verdict == verdict, f"\n{report}"
    assert len(report.blocks) == 0


class TwoBlocks(nn.Module):
    "The first block is solved well, the second by a single step."
    def __init__(self):
        super().__init__()
        self.good, self.bad = (nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)) for _ in range(2))
        with torch.no_grad():
            self.bad[2].weight *= 30

    def forward(self, x):
        t = torch.tensor([0., 1.]).to(x)
        x = odeint(lambda t, z: self.good(z), x, t, method="rk4", options=dict(step_size=.1))[-1]
        return odeint(lambda t, z: self.bad(z), x, t, method="euler")[-1]


def test_blocks_are_told_apart():
    torch.manual_seed(0)
    report = audit(TwoBlocks(), torch.randn(300, 2), compare="class")
    alone = report.swaps[report.swaps.solver.str.startswith("only")]
    assert report.verdict == "ResNet" and len(report.blocks) == len(alone) == 2
    assert alone.share.iloc[0] == 0 and alone.share.iloc[1] > .1


def test_torchdyn():
    pytest.importorskip("torchdyn")
    from torchdyn.core import NeuralODE
    torch.manual_seed(0)
    x = torch.randn(300, 2)
    for scale, verdict in ((1., "ODE"), (30., "ResNet")):
        net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        with torch.no_grad():
            net[2].weight *= scale
        model = nn.Sequential(NeuralODE(net, solver="euler", return_t_eval=False))
        report = audit(model, x, compare="class", output=lambda sol: sol[-1])
        assert report.verdict == verdict, f"\n{report}"


def test_a_copy_of_torchdiffeq(tmp_path, monkeypatch):
    "A project's own copy has a table of its own: seen when it is named, and only then."
    shutil.copytree(Path(torchdiffeq.__file__).parent, tmp_path / "their_solvers", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(tmp_path)
    theirs = importlib.import_module("their_solvers").odeint
    x, t = torch.randn(400, 2), torch.tensor([0., 1.])

    def model(x):
        return theirs(lambda t, z: 9 * torch.sin(z.flip(1)), x, t, method="euler")[-1]
    with pytest.raises(ValueError, match="module="):
        audit(model, x)
    assert audit(model, x, compare="class", module="their_solvers").verdict == "ResNet"


def test_threads_do_not_see_each_other():
    "Two threads refine by different numbers, at the same time, again and again."
    def refined(k):
        x, t = torch.ones(1), torch.tensor([0., 1.])
        for _ in range(200):
            with torchdiffeq_solver(refine=k):
                assert odeint(lambda t, z: -z, x, t, method="euler")[-1].item() == pytest.approx((1 - 1 / k) ** k, abs=1e-6)
        return True
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(refined, (1, 2, 4, 8)))
    assert not any(type(entry).__name__ == "_Hook" for entry in torchdiffeq._impl.adjoint.SOLVERS.values())


def test_cost():
    "An audit of Sphere2's 1,000 test points takes under 5 s on two cores: under 5 s of processor time, whoever else computes."
    from neuralode_resnet.datasets import load
    from neuralode_resnet.models import load_model, member
    data = load("sphere2", seed=0)
    model = member(load_model(ROOT / "results" / "weights" / "sphere2_euler_64.pt"), 4)
    audit(model, data.x_test[:10], compare="class")  # imports that the first forward differentiation takes
    start = time.process_time()
    assert audit(model, data.x_test, data.y_test, tolerance=.1).verdict == "ODE"
    assert time.process_time() - start < 5


@pytest.mark.parametrize("solver", ["dopri5@1e-3", "midpoint@1/8", "rk4@1/4"])
def test_models_of_this_package(solver):
    from neuralode_resnet.datasets import load
    from neuralode_resnet.models import NeuralODE
    data = load("sphere2", seed=0)
    model = NeuralODE.for_data(data, solver, seed=0)
    with torch.no_grad():
        for parameter in model.block.field.parameters():
            parameter *= .3
    report = audit(model, data.x_test[:300], compare="class")
    assert report.verdict == "ODE", f"\n{report}"
    assert model.block.solver == Solver.parse(solver)


# What a coarser solver would save

class Rotation(nn.Module):
    "A gentle field, solved in any way."
    def __init__(self, times=(0., 1.), **solver):
        super().__init__()
        self.times, self.solver, self.layer = times, solver, nn.Linear(2, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0., .5], [-.5, 0.]]))
            self.layer.bias.zero_()

    def forward(self, x):
        return odeint(lambda t, z: torch.sin(self.layer(z)), x, torch.tensor(self.times).to(x), **self.solver)[-1]


EYE = torch.eye(2)
POINTS = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("solver", [
    dict(method="euler", options=dict(step_size=1 / 16)), dict(method="rk4", options=dict(step_size=.3)),
    dict(method="euler", options=dict(step_size=1 / 8), times=(1., 0.)), dict(method="dopri5", rtol=1e-6, atol=1e-6),
    dict(method="euler", options=dict(grid_constructor=lambda f, z, t: torch.linspace(float(t[0]), float(t[-1]), 9).to(t)))],
    ids=["euler", "rk4", "backward", "dopri5", "grid"])
def test_what_an_ode_could_save(solver):
    report = audit(Rotation(**solver), POINTS, compare="class", tolerance=.1)
    costs = [report.blocks.evaluations[0], *report.coarser.nfe]
    assert report.verdict == "ODE" and len(costs) > 1 and all(a > b for a, b in zip(costs, costs[1:])), costs
    said = [text for text in report.advice if "would do" in text or "keep that accuracy" in text]
    assert len(said) == 1 and said[0] in " ".join(str(report).split()) and said[0] in as_markdown(report)
    assert len(json.loads(as_json(report))["coarser"]) == len(report.coarser)


def test_nothing_is_coarser_than_one_step_and_a_resnet_is_not_asked():
    assert len(audit(Rotation(method="rk4"), POINTS, compare="class").coarser) == 0
    report = audit(Loop(lambda x: 30 * torch.sin(x.flip(1)), 4), POINTS, compare="class")
    assert report.coarser is None and json.loads(as_json(report))["coarser"] is None


# Tolerances, precision and budgets

@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "fehlberg2", "adaptive_heun"])
def test_a_field_that_is_solved_better_than_asked_does_not_diverge(method, tol):
    "With the fewest steps that there can be, refinements differ by less than their tolerances, in no order."
    report = audit(Rotation(method=method, rtol=tol, atol=tol), POINTS, compare="class", tolerance=.1)
    assert report.verdict == "ODE" and report.convergence["divergent"] < .1, f"\n{report}"


def test_float32_is_not_asked_for_more_than_it_has():
    "A function that holds a float32 tensor does not run in float64; a tolerance of 1e-10 would take its solves 80,000 evaluations."
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
    with torch.no_grad():
        net[2].weight *= 60
    report = audit(lambda x: odeint(lambda t, z: net(z) @ EYE, x, torch.tensor([0., 1.]))[-1], POINTS, compare="class")
    assert report.verdict == "ODE", f"\n{report}"
    assert "dopri8 at rtol 1e-07" in report.swaps.solver.tolist()
    assert "no order to be seen" in str(report) and report.certified["n"] == 0


def test_a_tolerance_that_is_not_reached_is_no_evidence(monkeypatch):
    "Where every tolerance that is tighter breaks down, nothing is known."
    monkeypatch.setattr(Target, "refined", lambda self, x, like, level=0, **changes: Outcome(torch.full_like(like, torch.nan), []))
    report = audit(Rotation(rtol=1e-3, atol=1e-3), POINTS, compare="class")
    assert report.verdict == "undecided" and "got through" in report.why and report.exit_status == 4, f"\n{report}"
    assert len(report.swaps) == 0 and "undecided at 2 %" in as_markdown(report) and report.plot() is not None


# Events, wrappers, random fields, shapes

class Falling(nn.Module):
    "Time at which each sample has fallen to its half, by events."
    def __init__(self, **solver):
        super().__init__()
        self.solver, self.rate = solver, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return torch.stack([odeint_event(lambda t, z: -self.rate * z, z0, torch.tensor(0.).to(x), event_fn=lambda t, z: z[0] - .5 * z0[0],
                                         **self.solver)[0].reshape(1) for z0 in x])


@pytest.mark.parametrize("solver, verdict", [
    (dict(method="euler", options=dict(step_size=.2), atol=1e-7), "ResNet"), (dict(method="dopri5", rtol=1e-6, atol=1e-6), "ODE")], ids=str)
def test_events(solver, verdict):
    report = audit(Falling(**solver), 1 + torch.rand(40, 1, generator=torch.Generator().manual_seed(0)), compare="value", tolerance=.1)
    assert report.verdict == verdict, f"\n{report}"
    assert not any("ignores" in said or "longer" in said for said in report.traps)
    if verdict == "ResNet":
        assert report.blocks.solver[0] == "euler, 4 steps" and "event" in report.repair["reason"]


class Wrapped(nn.Module):
    "Every call wraps its blocks in new modules, as some code does."
    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)) for _ in range(2))
        with torch.no_grad():
            self.second[2].weight *= 60

    def forward(self, x):
        class Field(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net

            def forward(self, t, z):
                return self.net(z)
        for net in (self.first, self.second, self.first):
            x = odeint_adjoint(Field(net), x, torch.tensor([0., 1.]).to(x), method="euler")[-1]
        return x


def test_blocks_that_are_wrapped_anew_are_recognised():
    torch.manual_seed(0)
    report = audit(Wrapped(), POINTS, compare="value")
    assert report.blocks.solves.tolist() == [2, 1] and report.blocks.block.tolist() == ["Field (1)", "Field (2)"]
    alone = report.swaps[report.swaps.solver.str.startswith("only")]
    assert alone.nfe.tolist() == [2 * 8 + 1, 2 + 8] and (alone.share > .3).all()


def test_one_class_for_all_is_said():
    torch.manual_seed(0)
    assert any("every sample is predicted as class 0" in said for said in audit(Wrapped(), POINTS, compare="class").traps)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return odeint(lambda t, z: F.dropout(self.layer(z), .3, self.training), x, torch.tensor([0., 1.]).to(x), method="euler")[-1]


def test_dropout_as_a_function_is_found():
    assert any("random" in said for said in audit(Dropping(), POINTS, compare="class").traps)


def test_labels_and_inputs_in_other_shapes():
    model, y = Rotation(rtol=1e-3, atol=1e-3), (POINTS[:, 0] > 0).long()
    reports = [audit(model, POINTS, labels) for labels in (y, y.tolist(), y.numpy())]
    assert len({report.swaps.accuracy[0] for report in reports}) == 1

    class Batch(Rotation):
        def forward(self, batch):
            return super().forward(batch["x"])
    assert "changed" in audit(Batch(rtol=1e-3, atol=1e-3), dict(x=POINTS), compare="class").rounding
    assert audit(lambda x: model(x)[:, 0], POINTS, compare="value").verdict == "ODE"


# What cannot be audited

class Nothing(nn.Module):
    def forward(self, x): return x


class Random(nn.Module):
    def forward(self, x):
        return odeint(lambda t, z: F.dropout(z), x, torch.tensor([0., 1.]), method="euler")[-1]


class Counting(nn.Module):
    calls = 0

    def forward(self, x):
        Counting.calls += 1
        return odeint(lambda t, z: -z * Counting.calls, x, torch.tensor([0., 1.]), method="euler")[-1]


class Exploding(nn.Module):
    def forward(self, x):
        return odeint(lambda t, z: z / 0, x, torch.tensor([0., 1.]), method="euler")[-1]


class Still(nn.Module):
    def forward(self, x): return odeint(lambda t, z: -z, x, torch.tensor([0.]), method="euler")[-1]


@pytest.mark.parametrize("words, model, options", [
    ("called no solver", Nothing(), {}),
    ("nothing was solved", Still(), {}),
    ("field is random", Random(), dict(compare="value")),
    ("deterministic", Counting(), dict(compare="value")),
    ("not finite", Exploding(), dict(compare="value")),
    ("needs labels", Loop(nn.Linear(2, 2), 1), dict(compare="accuracy")),
    ("need labels", Loop(nn.Linear(2, 2), 1), dict(y=torch.zeros(3, dtype=int))),
    ("logits of 2 classes", Loop(nn.Linear(2, 2), 1), {}),
    ("nats", lambda x: odeint(lambda t, z: -z, x, torch.tensor([0., 1.]))[-1][:, 0], {}),
    ("unit must be", Loop(nn.Linear(2, 2), 1), dict(compare="value", unit="percent")),
    ("compare must be", Loop(nn.Linear(2, 2), 1), dict(compare="classes")),
    ("tolerance must lie", Loop(nn.Linear(2, 2), 1), dict(tolerance=0)),
    ("compare='value'", Loop(nn.Linear(1, 1), 1), {}),
    ("first axis is time", lambda x: odeint(lambda t, z: -z, x, torch.tensor([0., 1.])), dict(compare="value")),
    ("single number", lambda x: odeint(lambda t, z: -z, x, torch.tensor([0., 1.]))[-1].mean(), {}),
    ("no rows", lambda x: odeint(lambda t, z: -z, x, torch.tensor([0., 1.]))[-1][:0], {}),
    ("number per sample", Loop(nn.Linear(2, 2), 1), dict(compare=lambda a, b: (a - b).abs().max())),
    ("without labels", lambda x: odeint(lambda t, z: -z, x, torch.tensor([0., 1.]))[-1][:, :1], dict(y=torch.rand(7), compare="value")),
    ("numbers of classes", Loop(nn.Linear(2, 2), 1), dict(y=torch.rand(20), compare="class")),
    ("is refine used", lambda x, refine=1: x, dict(compare="value")),
    ("must be callable", 3, {}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input(words, model, options):
    width = 1 if "value" in words else 2
    with pytest.raises((ValueError, TypeError), match=words):
        audit(model, torch.randn(20, width), **options)


# A target of the user's own

class Series:
    "z' = strength * sin(z) by a series of its own kind, which no target of this package knows."
    def __init__(self, strength, steps=2):
        self.strength, self.steps = strength, steps

    def __call__(self, x):
        for _ in range(self.steps):
            x = x + self.strength / self.steps * torch.sin(x.flip(1))
        return x


class SeriesTarget(Target):
    kind = "a series"
    sees_solves = False

    @contextmanager
    def solving(self, level=0, higher=False, fields=None, change_field=None, **more):
        before, self.model.steps = self.model.steps, max(1, round(self.model.steps * 2 ** level))
        yield []
        self.model.steps = before


@pytest.mark.parametrize("strength, verdict", [(.001, "ODE"), (9., "ResNet")])
def test_a_target_of_the_users_own_is_audited(strength, verdict):
    model = Series(strength)
    report = audit(SeriesTarget(model), POINTS, compare="class")
    assert report.verdict == verdict, f"\n{report}"
    assert model.steps == 2
