"""Fields that hide something from a solver, as data: field, solver, truth by an independent solve.

The verdict on them must not be wrong: undecided is allowed, a certainty is not. `benchmarks/audit_suite.py` audits all of
them on many samples and writes `results/audit_suite.csv`; `test_adversaries.py` audits them on few.
"""
from dataclasses import dataclass
from typing import Callable

import numpy as np
import torch
from neuralode_resnet.audit import audit
from scipy.integrate import solve_ivp
from scipy.stats import binomtest
from torch import nn
from torchdiffeq import odeint

TOLERANCE = .02
NEAR = 1e-6    # of the size of the states: nearer to the boundary no truth is told


def gauss(n, width=2):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Adversary:
    name: str
    kind: str
    field: Callable     # f(t, z), of torch
    solver: dict        # of torchdiffeq
    end: float = 1.     # of the interval
    start: Callable = gauss  # n -> states (n, width)
    breaks: tuple = ()  # times at which the field jumps or peaks: the truth is solved from one to the next
    longest: float = np.inf  # step of the truth
    jumps: bool = False      # in space: the truth is a loop of many steps, since no error control passes a jump
    by_hand: float = 0.      # the model itself makes an Euler step up to this time
    net: nn.Module = None    # whose parameters the field has


def fixed(method, n, end=1., **options):
    return dict(method=method, options=dict(step_size=end / n, **options))


def adaptive(method, tol, **options):
    return dict(method=method, rtol=tol, atol=tol, options=options)


# Fields

def push(size, like):
    return size * torch.eye(like.shape[1], dtype=like.dtype)[0] * torch.ones_like(like)


def pulse(center, width, size):
    "A push of a total of `size` to the first number, within a short time."
    return lambda t, z: -.1 * z + push(size / width * (abs(t - center) < width / 2), z)


def bell(center, width, size):
    "A smooth push of a total of `size`."
    return lambda t, z: -.1 * z + push(size / width / 2.5066 * torch.exp(-((torch.as_tensor(t) - center) / width) ** 2 / 2), z)


def wave(frequency, size):
    "A push that is 0 whenever the frequency times the time is whole, and `size` in the mean."
    return lambda t, z: push(-size * (1 - torch.cos(2 * torch.pi * frequency * torch.as_tensor(t, dtype=z.dtype))), z)


def clock(frequency, size):
    "The second number is the time since the start; the first is pushed by a wave in it."
    def field(t, z):
        return torch.stack([size * torch.sin(torch.pi * frequency * z[:, 1]) ** 2, torch.ones_like(z[:, 1])], 1)
    return field


class Fourier(nn.Module):
    "A trained-looking network whose features of time repeat with the steps."
    def __init__(self, frequencies):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.frequencies = torch.tensor(frequencies)
        self.a = nn.Parameter(torch.randn(2 + 2 * len(frequencies), 16, generator=generator))
        self.b = nn.Parameter(torch.randn(16, 2, generator=generator))

    def forward(self, t, z):
        phase = 2 * torch.pi * self.frequencies.to(z) * torch.as_tensor(t).to(z)
        features = torch.cat([phase.cos(), phase.sin()]).expand(len(z), -1)
        return torch.tanh(torch.cat([z, 2 * features], 1) @ self.a.to(z)) @ self.b.to(z)


def peaks(times, width, height):
    "So short that they move nothing, and high where one of the better solvers evaluates the field."
    def field(t, z):
        near = min(abs(float(t) - s) for s in times) < width / 2
        return torch.sin(z.flip(1)) + push(height * near, z)
    return field


def jumps(strength):
    def field(t, z):
        return torch.stack([torch.sign(torch.sin(7 * z[:, 0] + 3 * z[:, 1])) * strength, torch.ones_like(z[:, 1])], 1)
    return field


def friction(t, z):
    return torch.stack([z[:, 1], -z[:, 0] - .3 * torch.sign(z[:, 1])], 1)


def pendulum(t, z):
    return torch.stack([z[:, 1], -torch.sin(z[:, 0])], 1)


def oscillator(t, z):
    return torch.stack([z[:, 1], -4 * z[:, 0]], 1)


def fast(t, z):
    return 40. * torch.stack([z[:, 1], -z[:, 0]], 1)


def stiff(t, z):
    return torch.stack([-60 * (z[:, 0] - z[:, 1]), -z[:, 1]], 1)


def kinked(t, z):
    return torch.relu(torch.stack([z[:, 1] + .3, -z[:, 0]], 1)) - .2 * z


def folded(t, z):
    return 3 * torch.stack([torch.abs(z[:, 1]) - 1, .7 - torch.abs(z[:, 0])], 1)


def smooth(t, z):
    return torch.sin(z.flip(1))


def wild(t, z):
    return 12 * torch.sin(4 * z.flip(1))


def chaotic(t, z):
    return 8 * torch.stack([torch.sin(3 * z[:, 1]) + torch.cos(9 * torch.as_tensor(t)), torch.cos(3 * z[:, 0])], 1)


def lorenz(t, z):
    x, y, w = z.T
    return torch.stack([10 * (y - x), x * (28 - w) - y, x * y - 8 / 3 * w], 1)


def dead(t, z):
    return torch.relu(-torch.relu(z)) - .5 * torch.relu(z)


def stepped(t, z):
    return 20 * torch.tanh(z @ torch.tensor([[.3, -.9], [.8, .2]]).to(z)) @ torch.tensor([[-.2, .5], [-.6, .1]]).to(z)


# Where samples start

def at_zero(n):
    return torch.cat([gauss(n, 1), torch.zeros(n, 1)], 1)


def on_the_boundary(n):
    x = gauss(n)
    x[: 3 * n // 10, 0] = 0.
    return x


def butterfly(n):
    return gauss(n, 3) * 5 + torch.tensor([0., 0., 25.])


FOURIER = Fourier((16., 32., 64.))
SLOW = Fourier((1., 2.))
ADVERSARIES = [
    Adversary("sin, euler 64", "smooth", smooth, fixed("euler", 64)),
    Adversary("sin, rk4 8", "smooth", smooth, fixed("rk4", 8)),
    Adversary("sin, dopri5", "smooth", smooth, adaptive("dopri5", 1e-5)),
    Adversary("wild, euler 4", "smooth", wild, fixed("euler", 4)),
    Adversary("time network, midpoint 64", "smooth", SLOW, fixed("midpoint", 64), net=SLOW),
    Adversary("relu, euler 64", "kinked", kinked, fixed("euler", 64)),
    Adversary("relu, rk4 8", "kinked", kinked, fixed("rk4", 8)),
    Adversary("abs, rk4 16", "kinked", folded, fixed("rk4", 16)),
    Adversary("abs, dopri5", "kinked", folded, adaptive("dopri5", 1e-4)),
    Adversary("sign, euler 16", "discontinuous", jumps(1.5), fixed("euler", 16), jumps=True),
    Adversary("sign, rk4 8", "discontinuous", jumps(4.), fixed("rk4", 8), jumps=True),
    Adversary("weak sign, euler 128", "discontinuous", jumps(.2), fixed("euler", 128), jumps=True),
    Adversary("friction, rk4 64", "discontinuous", friction, fixed("rk4", 64), jumps=True),
    Adversary("fast decay, euler 16", "stiff", stiff, fixed("euler", 16)),
    Adversary("fast decay, euler 128", "stiff", stiff, fixed("euler", 128)),
    Adversary("fast decay, dopri5", "stiff", stiff, adaptive("dopri5", 1e-5)),
    Adversary("driven, euler 16", "chaotic", chaotic, fixed("euler", 16)),
    Adversary("driven, rk4 128", "chaotic", chaotic, fixed("rk4", 128)),
    Adversary("lorenz, rk4 200", "chaotic", lorenz, fixed("rk4", 200, 2.), end=2., start=butterfly),
    Adversary("lorenz, euler 200", "chaotic", lorenz, fixed("euler", 200, 2.), end=2., start=butterfly),
    Adversary("pendulum, rk4 10", "oscillating", pendulum, fixed("rk4", 10)),
    Adversary("six turns, rk4 64", "oscillating", fast, fixed("rk4", 64)),
    Adversary("six turns, midpoint 64", "oscillating", fast, fixed("midpoint", 64)),
    Adversary("six turns, dopri5", "oscillating", fast, adaptive("dopri5", 1e-6)),
    Adversary("pulse, euler 2", "pulse", pulse(.285, .05, 4.), fixed("euler", 2), breaks=(.26, .31)),
    Adversary("short pulse, euler 8", "pulse", pulse(.7071, .004, 3.), fixed("euler", 8), breaks=(.7051, .7091)),
    Adversary("pulse, midpoint 4", "pulse", pulse(.29, .03, 3.), fixed("midpoint", 4), breaks=(.275, .305)),
    Adversary("pulse, rk4 4", "pulse", pulse(.4, .03, 3.), fixed("rk4", 4), breaks=(.385, .415)),
    Adversary("bell, rk4 16", "pulse", bell(.4123, .002, 3.), fixed("rk4", 16), breaks=(.39, .43), longest=1e-3),
    Adversary("pulse, dopri5", "pulse", pulse(.44, .01, 3.), adaptive("dopri5", 1e-4), breaks=(.435, .445)),
    Adversary("wave 192, euler 8", "aliasing", wave(192, 3.), fixed("euler", 8), longest=1e-3),
    Adversary("wave 256, midpoint 4", "aliasing", wave(256, 3.), fixed("midpoint", 4), longest=1e-3),
    Adversary("wave 256, rk4 8", "aliasing", wave(256, 3.), fixed("rk4", 8), longest=1e-3),
    Adversary("clock 128, euler 8", "aliasing", clock(128, 3.), fixed("euler", 8), start=at_zero, longest=1e-3),
    Adversary("clock 512, rk4 4", "aliasing", clock(512, 3.), fixed("rk4", 4), start=at_zero, longest=5e-4),
    Adversary("Fourier features, euler 16", "aliasing", FOURIER, fixed("euler", 16), net=FOURIER, longest=2e-3),
    Adversary("Fourier features, rk4 16", "aliasing", FOURIER, fixed("rk4", 16), net=FOURIER, longest=2e-3),
    Adversary("encoder steps, dopri5", "stepped by hand", stepped, adaptive("dopri5", 1e-5), end=.6, by_hand=.5),
    Adversary("encoder steps, rk4 8", "stepped by hand", stepped, fixed("rk4", 8, .1), end=.6, by_hand=.5),
    Adversary("one turn, rk4 64", "on the boundary", oscillator, fixed("rk4", 64, np.pi), end=np.pi, start=on_the_boundary),
    Adversary("one turn, dopri5", "on the boundary", oscillator, adaptive("dopri5", 1e-7), end=np.pi, start=on_the_boundary),
    Adversary("dead relu, euler 16", "on the boundary", dead, fixed("euler", 16), start=on_the_boundary),
    Adversary("peaks at thirds, rk4 8", "outlier", peaks([(i + 1 / 3) / 16 for i in range(16)], 2e-6, 100.), fixed("rk4", 8)),
    Adversary("peaks at halves, euler 16", "outlier", peaks([(i + .5) / 16 for i in range(16)], 2e-6, 100.), fixed("euler", 16)),
    Adversary("peaks at quarters, midpoint 8", "outlier", peaks([(i + .25) / 8 for i in range(8)], 2e-6, 100.), fixed("midpoint", 8)),
    Adversary("jump_t, fehlberg2", "options", pulse(.415, .03, 1.), adaptive("fehlberg2", 1e-6, jump_t=torch.tensor([.4, .43])), breaks=(.4, .43)),
    Adversary("step_t, dopri5", "options", pulse(.415, .03, 1.), adaptive("dopri5", 1e-6, step_t=torch.tensor([.4, .43])), breaks=(.4, .43)),
    Adversary("max_step, dopri5", "options", bell(.4123, .01, 2.), adaptive("dopri5", 1e-6, max_step=.01), breaks=(.36, .46), longest=2e-3),
    Adversary("float64 times, dopri5", "options", smooth, adaptive("dopri5", 1e-5, dtype=torch.float64)),
    Adversary("unequal grid, rk4", "options", kinked, dict(method="rk4", options=dict(
        grid_constructor=lambda f, z, t: (torch.linspace(0, 1, 17) ** 2).to(t)))),
]


class Solved(nn.Module):
    "A field under torchdiffeq, with a head that separates by the sign of the first number."
    def __init__(self, adversary):
        super().__init__()
        self.adversary, self.net = adversary, adversary.net

    def forward(self, x):
        a = self.adversary
        if a.by_hand:
            x = x + a.by_hand * a.field(torch.tensor(0.), x)
        z = odeint(a.field, x, torch.tensor([a.by_hand, a.end]).to(x), **a.solver)[-1]
        return torch.stack([z[:, 0], -z[:, 0]], 1)


def by_loop(a, x, n_steps):
    "The first number at the end, by the midpoint rule in float64."
    z, h = x.double(), a.end / n_steps
    for i in range(n_steps):
        half = z + h / 2 * a.field(torch.tensor(i * h, dtype=torch.float64), z)
        z = z + h * a.field(torch.tensor((i + .5) * h, dtype=torch.float64), half)
    return z[:, 0]


def by_scipy(a, x):
    "The first number at the end, by SciPy's DOP853 at 1e-10 in float64, from one break to the next."
    def field(t, z):
        state = torch.from_numpy(z).view(x.shape)
        return a.field(torch.tensor(t, dtype=torch.float64), state).detach().numpy().ravel()
    z, times = x.double().numpy().ravel(), [0., *a.breaks, a.end]
    for start, end in zip(times, times[1:]):
        inside = 1e-9 * a.end if a.breaks else 0.
        z = solve_ivp(field, (start + inside, end - inside), z, "DOP853", rtol=1e-10, atol=1e-11, max_step=a.longest).y[:, -1]
    return torch.from_numpy(z).view(x.shape)[:, 0]


def truth(a, x):
    "The first number at the end, and where its sign is beyond doubt: another solve agrees, and it is not on the boundary."
    if a.jumps:
        end, other = by_loop(a, x, 40_009), by_loop(a, x, 20_011)
    elif a.kind == "outlier":
        end = by_scipy(Adversary(a.name, a.kind, smooth, a.solver), x)  # the peaks together move a state by 0.003
        return end, end.abs() > .004
    else:
        end = other = by_scipy(a, x)
    near = torch.maximum(10 * (end - other).abs(), NEAR * x.double().norm(dim=1).clamp(min=1))
    return end, end.abs() > near


def check(a, n, **options):
    "A row: what the audit says of an adversary, and what is true."
    x = a.start(n)
    model = Solved(a)
    end, sure = truth(a, x)
    with torch.no_grad():
        flipped = ((model(x)[:, 0] > 0) != (end > 0)) & sure
    report = audit(model, x, compare="class", parts="verdict", **options)
    certified = torch.tensor((report.samples.certified if "certified" in report.samples else report.samples.error < 0).to_numpy())
    share = flipped.double().mean().item()
    return dict(name=a.name, kind=a.kind, verdict=report.verdict, truth="ResNet" if share > TOLERANCE else "ODE", flips=share,
                certified=int(certified.sum()), wrong=int((certified & flipped).sum()), n=n, on_boundary=int((~sure).sum()),
                passes=report.settings["cost"]["passes"], why=report.why), report


def limit(wrong, certified):
    "Upper end of the one-sided 95 % interval of the share of certified predictions that truly flip."
    return binomtest(int(wrong), int(certified)).proportion_ci(.9).high if certified else 0.
