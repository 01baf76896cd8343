"""Fields that hide something from a solver. The verdict must not be wrong: undecided is allowed, a certainty is not.

The truth is that of an independent loop in float64, with so many steps that what the field hides is resolved.
"""
from dataclasses import dataclass
from typing import Callable

import numpy as np
import pytest
import torch
from neuralode_resnet.audit import audit
from torch import nn
from torchdiffeq import odeint

pytestmark = pytest.mark.filterwarnings("ignore")
N, TOLERANCE, STEPS = 400, .02, 10_007
PUSH = torch.tensor([1., 0.])


@dataclass(frozen=True)
class Adversary:
    name: str
    field: Callable   # f(t, z), of torch
    solver: dict      # of torchdiffeq
    end: float = 1.   # of the interval
    start: Callable = lambda n: torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def fixed(method, n, end=1.):
    return dict(method=method, options=dict(step_size=end / n))


def pulse(center, width, size):
    "A push of a total of `size` to the first number, within a short time."
    return lambda t, z: -.1 * z + size / width * (abs(t - center) < width / 2) * PUSH.to(z)


def wave(frequency, size):
    "A push that is 0 whenever the frequency times the time is whole, and `size` in the mean."
    return lambda t, z: -size * (1 - torch.cos(2 * torch.pi * frequency * torch.as_tensor(t))) * PUSH.to(z) + 0 * z


def clock(frequency, size):
    "The second number is the time since the start; the first is pushed by a wave in it."
    def field(t, z):
        push = size * torch.sin(torch.pi * frequency * z[:, 1]) ** 2
        return torch.stack([push, torch.ones_like(z[:, 1])], 1)
    return field


def jumps(strength):
    def field(t, z):
        return torch.stack([torch.sign(torch.sin(7 * z[:, 0] + 3 * z[:, 1])) * strength, torch.ones_like(z[:, 1])], 1)
    return field


def at_zero(n):
    return torch.cat([torch.randn(n, 1, generator=torch.Generator().manual_seed(0)), torch.zeros(n, 1)], 1)


def on_the_boundary(n):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    x[: 3 * n // 10, 0] = 0.
    return x


def pendulum(t, z):
    return torch.stack([z[:, 1], -torch.sin(z[:, 0])], 1)


def oscillator(t, z):
    return torch.stack([z[:, 1], -4 * z[:, 0]], 1)


def stiff(t, z):
    return torch.stack([-60 * (z[:, 0] - z[:, 1]), -z[:, 1]], 1)


def kinked(t, z):
    return torch.relu(torch.stack([z[:, 1] + .3, -z[:, 0]], 1)) - .2 * z


def smooth(t, z):
    return torch.sin(z.flip(1))


def wild(t, z):
    return 12 * torch.sin(4 * z.flip(1))


def chaotic(t, z):
    return 8 * torch.stack([torch.sin(3 * z[:, 1]) + torch.cos(9 * torch.as_tensor(t)), torch.cos(3 * z[:, 0])], 1)


ADVERSARIES = [
    Adversary("pulse, euler", pulse(.285, .05, 4.), fixed("euler", 2)),
    Adversary("short pulse, euler", pulse(.7071, .004, 3.), fixed("euler", 8)),
    Adversary("pulse, midpoint", pulse(.29, .03, 3.), fixed("midpoint", 4)),
    Adversary("pulse, rk4", pulse(.4, .03, 3.), fixed("rk4", 4)),
    Adversary("pulse, dopri5", pulse(.44, .01, 3.), dict(method="dopri5", rtol=1e-4, atol=1e-4)),
    Adversary("wave, euler", wave(192, 3.), fixed("euler", 8)),
    Adversary("wave, midpoint", wave(256, 3.), fixed("midpoint", 4)),
    Adversary("wave, rk4", wave(256, 3.), fixed("rk4", 8)),
    Adversary("clock, euler", clock(128, 3.), fixed("euler", 8), start=at_zero),
    Adversary("clock, rk4", clock(512, 3.), fixed("rk4", 4), start=at_zero),
    Adversary("jumps, euler", jumps(1.5), fixed("euler", 16)),
    Adversary("jumps, rk4", jumps(4.), fixed("rk4", 8)),
    Adversary("on the boundary, rk4", oscillator, fixed("rk4", 64, np.pi), end=np.pi, start=on_the_boundary),
    Adversary("on the boundary, dopri5", oscillator, dict(method="dopri5", rtol=1e-7, atol=1e-7), end=np.pi, start=on_the_boundary),
    Adversary("pendulum, rk4", pendulum, fixed("rk4", 10)),
    Adversary("stiff, euler", stiff, fixed("euler", 16)),
    Adversary("kinked, euler", kinked, fixed("euler", 64)),
    Adversary("smooth, rk4", smooth, fixed("rk4", 8)),
    Adversary("smooth, dopri5", smooth, dict(method="dopri5", rtol=1e-5, atol=1e-5)),
    Adversary("wild, euler", wild, fixed("euler", 4)),
    Adversary("chaotic, euler", chaotic, fixed("euler", 16)),
]
SETTLED = {"pendulum, rk4": "ODE", "smooth, rk4": "ODE", "smooth, dopri5": "ODE", "wild, euler": "ResNet"}


class Solved(nn.Module):
    "A field under torchdiffeq, with a head that separates by the sign of the first number."
    def __init__(self, adversary):
        super().__init__()
        self.adversary = adversary

    def forward(self, x):
        a = self.adversary
        z = odeint(a.field, x, torch.tensor([0., a.end]).to(x), **a.solver)[-1]
        return torch.stack([z[:, 0], -z[:, 0]], 1)


def truth(adversary, x):
    "The first number at the end, by the midpoint rule in float64, with a prime number of steps."
    z, h = x.double(), adversary.end / STEPS
    for i in range(STEPS):
        half = z + h / 2 * adversary.field(torch.tensor(i * h, dtype=torch.float64), z)
        z = z + h * adversary.field(torch.tensor((i + .5) * h, dtype=torch.float64), half)
    return z[:, 0]


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=lambda a: a.name)
def test_no_verdict_is_wrong(adversary):
    x = adversary.start(N)
    model = Solved(adversary)
    end = truth(adversary, x)
    decided = end.abs() > 1e-4
    flipped = (model(x)[:, 0] > 0) != (end > 0)
    share = (flipped & decided).double().mean().item()
    report = audit(model, x, compare="class")
    print(f"{adversary.name}: {share:.1%} truly flip, {report.verdict}, {report.certified['n']} certified, {report.seconds:.1f} s")
    assert not (report.verdict == "ODE" and share > TOLERANCE), f"{share:.1%} truly flip\n{report}"
    assert not (report.verdict == "ResNet" and share <= TOLERANCE), f"{share:.1%} truly flip\n{report}"
    assert report.verdict == SETTLED.get(adversary.name, report.verdict), f"\n{report}"
    sure = ((report.samples.error < report.samples.margin) & ~report.samples.changed).to_numpy() & (report.certified["n"] > 0)
    wrong = int((torch.tensor(sure) & flipped & decided).sum())
    if report.verdict == "ODE":
        assert wrong <= .01 * max(sure.sum(), 100), f"{wrong} of {sure.sum()} certified truly flip\n{report}"
