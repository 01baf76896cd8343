"""Random solves: native code in float32 beside PyTorch's walk over the same steps in float64.

Every case draws a field (MLP or short convolutions, one to four layers, any activation, time appended or not, biases or not),
members, a batch, a state that need not be contiguous, a method, steps or a tolerance, a direction of time. End state and all
gradients must agree to 1e-5 of their scale; where sums cancel, and PyTorch's own walk in float32 is off by more than that
as well, to four times as much as that one is off. An activation with a kink has no derivative there: cases in which an argument of
one is zero up to rounding are drawn anew, and counted.

    python benchmarks/native_comparison.py                # 600 cases
    python benchmarks/native_comparison.py --sanitize     # 200 cases, kernel built with address and undefined-behaviour sanitizers
"""
import argparse
import copy
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter

import torch
from torch import nn

from neuralode_resnet.models import Stacked
from neuralode_resnet.solvers import Solver, TABLEAUS, integrate, integrate_members, native
from neuralode_resnet.solvers.control import adaptive_march
from neuralode_resnet.solvers.stacks import recognise, why_not
from neuralode_resnet.solvers.steps import fixed_grid, march

ACTIVATIONS = {
    "none": nn.Identity, "relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.2), "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "softplus": lambda: nn.Softplus(1.5, 10.), "silu": nn.SiLU, "gelu": nn.GELU, "gelu_tanh": lambda: nn.GELU("tanh"), "elu": nn.ELU}
KINKED = (nn.ReLU, nn.LeakyReLU)
ALLOWED = 1e-5


class Layers(nn.Module):
    "A field of layers with an activation after each, and the time before the first layer, every layer, or nowhere."
    def __init__(self, layers, activations, time):
        super().__init__()
        self.layers, self.activations, self.time = nn.ModuleList(layers), nn.ModuleList(activations), time

    def forward(self, t, z):
        if self.time == "first":
            z = torch.cat([t.expand(*z.shape[:-1], 1), z], -1)
        if self.time == "first channel":
            z = torch.cat([t.expand(z.shape[0], 1, z.shape[2]), z], 1)
        for layer, activation in zip(self.layers, self.activations):
            if self.time == "every":
                z = torch.cat([z, torch.ones_like(z[..., :1]) * t], -1)
            if self.time == "every channel":
                z = torch.cat([z, torch.ones_like(z[:, :1]) * t], 1)
            z = activation(layer(z))
        return z


def draw_field(rng):
    "A field, and the shape of its state."
    count = rng.randint(1, 4)
    names = [rng.choice(list(ACTIVATIONS)[1:]) for _ in range(count - 1)] + [rng.choice(["none", "none", *ACTIVATIONS])]
    activations = [ACTIVATIONS[name]() for name in names]
    if rng.random() < 0.25:
        channels = [rng.choice([1, 1, 2, 3])] + [rng.choice([1, 4, 9, 16]) for _ in range(count - 1)]
        time = rng.choice(["never", "first channel", "every channel"])
        layers = []
        for i, (inputs, outputs) in enumerate(zip(channels, [*channels[1:], channels[0]])):
            taps = rng.choice([1, 3, 3, 5])
            more = time == "every channel" or time == "first channel" and i == 0
            layers.append(nn.Conv1d(inputs + more, outputs, taps, padding=taps // 2, bias=rng.random() < 0.8))
        return Layers(layers, activations, time), (channels[0], rng.randint(1, 9))
    time = rng.choice(["never", "first", "every"])
    widths = [rng.choice([1, 2, 3, 7, 16, 17])] + [rng.choice([1, 2, 5, 16, 31, 64, 100]) for _ in range(count - 1)]
    layers = []
    for i, (inputs, outputs) in enumerate(zip(widths, [*widths[1:], widths[0]])):
        more = time == "every" or time == "first" and i == 0
        layers.append(nn.Linear(inputs + more, outputs, bias=rng.random() < 0.8))
    shape = (widths[0],) if rng.random() < 0.8 else (rng.randint(1, 3), widths[0])
    return Layers(layers, activations, time), shape


def draw_state(rng, shape):
    "A random state, laid out in memory in one of four ways."
    how = rng.choice(["plain", "plain", "turned", "strided", "expanded"])
    if how == "turned":
        return torch.randn(*shape[::-1]).permute(*reversed(range(len(shape))))
    if how == "strided":
        return torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]
    if how == "expanded":
        return torch.randn(*shape[:-2], 1, shape[-1]).expand(shape)
    return torch.randn(shape)


def draw_solver(rng, members):
    "A method, and one solver for all members or one for each."
    method = rng.choice(list(TABLEAUS))
    adaptive = TABLEAUS[method].adaptive and rng.random() < 0.7
    def one():
        if adaptive:
            return Solver(method, tol=10 ** -rng.uniform(2, 4))
        return Solver(method, rng.choice([1., 1 / 2, 0.3, 1 / 7, 1 / 16]))
    return [one() for _ in range(members)] if rng.random() < 0.5 else [one()] * members


def smallest_argument(field, grid, tableau, z):
    "Of all activations with a kink, along a walk in float64; relative to the largest where that is above 1."
    found = [torch.inf]
    def look(module, arguments):
        sizes = arguments[0].abs()
        found.append(sizes.min().item() / max(sizes.max().item(), 1.))
    hooks = [m.register_forward_pre_hook(look) for m in field.modules() if isinstance(m, KINKED)]
    with torch.no_grad():
        march(field, tableau, grid, z)
    for hook in hooks:
        hook.remove()
    return min(found)


def by_pytorch(field, grid, tableau, z, probe):
    "End state and gradients by PyTorch."
    z = z.detach().clone().requires_grad_()
    end = march(field, tableau, grid, z)[0]
    return [end, *torch.autograd.grad((end * probe).sum(), [z, *field.parameters()])]


def difference(ours, theirs):
    """Largest difference: of the end state, of its gradient, and of all gradients of weights, each over its scale.
    A weight's gradient is a sum of terms of the size of the state's gradient, so that its scale is at least that one."""
    worst = 0.
    for part in (slice(0, 1), slice(1, 2), slice(2, None)):
        scale = max(b.abs().max().item() for b in theirs[min(part.start, 1):part.stop])
        worst = max(worst, *((a - b).abs().max().item() / max(scale, 1e-3) for a, b in zip(ours[part], theirs[part])))
    return worst


def solve_single(field, z, solver, t_span):
    "Our end state, and the grid of each member."
    solution = integrate(field, z, solver, t_span)
    return solution.z, [solution.grid]


def solve_members(field, z, solvers, t_span):
    tableau = solvers[0].tableau
    end = integrate_members(field, z, solvers, t_span)[0]
    if solvers[0].fixed:
        return end, [fixed_grid(tableau, t_span, solver.step_size) for solver in solvers]
    tolerances = [(solver.rtol, solver.atol) for solver in solvers]
    _, found = native.solve_adaptively(recognise(field, z), tableau, z, t_span, tolerances, 100_000)
    return end, [outcome.grid for outcome in found]


def run_case(seed, seen):
    "The difference of one case, or `None` if it has to be drawn anew."
    rng = random.Random(seed)
    torch.manual_seed(seed)
    members = rng.choice([0, 0, 0, 1, 3])
    field, shape = draw_field(rng)
    fields = [copy.deepcopy(field) for _ in range(max(members, 1))]
    for one in fields:
        for parameter in one.parameters():
            nn.init.normal_(parameter, std=1 / max(parameter.shape[-1], 1) ** 0.5)
    batch = rng.choice([1, 2, 7, 31, 32, 64, 65, 130, 200])
    z = draw_state(rng, ((members,) if members else ()) + (batch, *shape)).detach()
    t_span = rng.choice([(0., 1.), (0., 1.), (1., -0.5), (-0.2, 1.)])
    solvers = draw_solver(rng, max(members, 1))
    tableau = solvers[0].tableau
    whole = Stacked(fields) if members else fields[0]
    z.requires_grad_()
    stack = recognise(whole, z)
    if not native.usable(stack, z):
        sys.exit(f"case {seed} is not solved natively: {why_not(whole, z)}")
    if members:
        end, grids = solve_members(whole, z, solvers, t_span)
    else:
        end, grids = solve_single(whole, z, solvers[0], t_span)
    probe = torch.randn(end.shape)
    ours = [end, *torch.autograd.grad((end * probe).sum(), [z, *whole.parameters()])]
    worst = 0.
    for i, one in enumerate(fields):
        double = copy.deepcopy(one).double()
        pick = (lambda tensor: tensor[i]) if members else (lambda tensor: tensor)
        start, own_probe = pick(z).detach(), pick(probe)
        if smallest_argument(double, grids[i], tableau, start.double()) < 2e-6:
            return None
        exact = by_pytorch(double, grids[i], tableau, start.double(), own_probe.double())
        off = difference([pick(tensor) for tensor in ours], exact)
        if off > ALLOWED:
            theirs = difference(by_pytorch(one, grids[i], tableau, start, own_probe), exact)
            seen["cancelled: PyTorch in float32 is off as well"] += theirs > ALLOWED / 4 and off <= 4 * theirs
            off = 0. if off <= 4 * theirs else off
        worst = max(worst, off)
        if not solvers[i].fixed:
            by_torch = adaptive_march(fields[i], tableau, pick(z).detach(), t_span, solvers[i].rtol, solvers[i].atol, 100_000)
            seen["same steps" if len(by_torch.grid) == len(grids[i]) else "other steps"] += 1
    seen[f"{'adaptive' if not solvers[0].fixed else 'fixed'}, {'ensemble' if members else 'single'}"] += 1
    return worst


def compare(count, first):
    "Run cases until `count` were compared; print what was seen."
    seen, worst, beyond, seed = Counter(), 0., [], first
    while sum(number for kind, number in seen.items() if kind.startswith(("fixed", "adaptive"))) < count:
        off = run_case(seed, seen)
        if off is None:
            seen["drawn anew"] += 1
        elif not off <= ALLOWED:
            beyond.append((seed, off))
        worst = max(worst, off or 0.)
        seed += 1
    print(f"{count} cases, {len(beyond)} differ by more than {ALLOWED:g} of the scale; largest difference {worst:.1e}")
    print(", ".join(f"{kind}: {number}" for kind, number in sorted(seen.items())))
    for seed, off in beyond:
        print(f"  case {seed}: {off:.1e}")
    return not beyond


def under_sanitizers(arguments):
    "The same in a process of its own, with the kernel built under sanitizers. A report ends it with an error."
    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, LD_PRELOAD=library, XDG_CACHE_HOME=folder,
                           NEURALODE_RESNET_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -g -O1",
                           ASAN_OPTIONS="detect_leaks=0:abort_on_error=0", UBSAN_OPTIONS="print_stacktrace=1")
        command = [sys.executable, __file__, "--cases", str(arguments.cases or 200), "--first", str(arguments.first)]
        code = subprocess.run(command, env=environment).returncode
    print("sanitizers: no report" if code == 0 else f"sanitizers: ended with {code}")
    return code == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, help="how many (default: 600, or 200 under sanitizers)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first case (default: %(default)s)")
    parser.add_argument("--sanitize", action="store_true")
    arguments = parser.parse_args()
    fine = under_sanitizers(arguments) if arguments.sanitize else compare(arguments.cases or 600, arguments.first)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
