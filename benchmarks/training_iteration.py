"""One training iteration (forward and backward): ours beside torchdiffeq and diffrax.

The Sphere2 classifier of the paper, and fields that a user might write: MLPs with tanh, small, in a large batch, and wide.

All candidates run in one process, on the same weights and the same batch, in turns. Before anything is timed, the loss
and the gradient of each are compared with those of its case's first candidate: equal work, or no timing.
"""
import argparse
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchdiffeq import odeint

import timing
from neuralode_resnet.datasets import load
from neuralode_resnet.models import NeuralODE, ODEBlock, member
from neuralode_resnet.solvers import native
from neuralode_resnet.solvers.stacks import recognise

BATCH, CHANNELS, N_STEPS, MEMBERS, TOL = 128, 32, 64, 10, 1e-5
TURN = 0.2  # seconds that a candidate runs before the next one does, as in a training: threads of the one before are asleep by then
WIDTHS = (2, 2 * CHANNELS, 2 * CHANNELS, 2)  # of the folded field's layers: 2 numbers of state, each with its channels
#: Forward, and twice as much backward: gradients of the inputs and of the weights.
def euler_operations(widths=WIDTHS, batch=BATCH):
    return 3 * 2 * batch * sum(a * b for a, b in zip(widths, widths[1:])) * N_STEPS


PEERS = ("jax", "diffrax")
OURS, ORIGINAL = "neuralode_resnet", "torchdiffeq"


@dataclass
class Candidate:
    library: str   # whose solver it is
    how: str       # which of its ways
    run: Callable  # () -> loss, gradients, evaluations or steps
    work: Callable = str  # what `run` returned third, for the table
    as_ours: Callable = list  # gradients as tensors, in the order of our parameters
    rtol: float = 1e-3 # to which its loss and gradient agree with those of its case's first candidate


@dataclass
class Case:
    title: str
    candidates: list
    goals: str
    members: int = 1
    operations: int = None  # per member; of adaptive solves they depend on the steps
    share: float = 1.       # of the rounds, where one takes long


# --- candidates -----------------------------------------------------------------------------------------------------

def loss_of(logits, y):
    "Mean cross-entropy; of an ensemble the sum over its members, so that each gets the gradient of its own."
    members = logits.shape[0] if logits.dim() == 3 else 1
    return cross_entropy(logits.flatten(0, -2), y.repeat(members)) * members


def ours(how, model, x, y):
    parameters = [*model.parameters()]

    def run():
        with native.yielding_threads():  # as `fit` does
            loss = loss_of(model(model.for_members(x)), y)
            return loss.detach(), torch.autograd.grad(loss, parameters), model.block.nfe
    return Candidate(OURS, how, run, lambda nfe: f"NFE {np.max(nfe)}")


class Mlp(nn.Module):
    "A field as a user writes it."
    def __init__(self, *widths):
        super().__init__()
        layers = []
        for a, b in zip(widths, widths[1:]):
            layers += [nn.Linear(a, b), nn.Tanh()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, t, z):
        return self.net(z)


def mlp_model(solver, *widths):
    "A user's model: their field, a linear head."
    torch.manual_seed(0)
    return NeuralODE(ODEBlock(Mlp(*widths), solver), nn.Linear(widths[-1], 2))


def original(model, x, y, how="Conv1d", **options):
    "torchdiffeq's `odeint` around the model's own layers, in the paper `nn.Conv1d`."
    parameters, times = [*model.parameters()], torch.tensor([0., 1.])

    def run():
        nfe = 0

        def field(t, z):
            nonlocal nfe
            nfe += 1
            return model.block.field(t, z)
        loss = loss_of(model.head(odeint(field, x, times, **options)[-1]), y)
        return loss.detach(), torch.autograd.grad(loss, parameters), nfe
    return Candidate(ORIGINAL, how, run, "NFE {}".format)


def one_after_another(candidates):
    "Members of an ensemble trained each alone; results as the ensemble gives them."
    def run():
        losses, gradients, work = zip(*(candidate.run() for candidate in candidates))
        return sum(losses), [torch.stack(members) for members in zip(*gradients)], work[0]
    first = candidates[0]
    return Candidate(first.library, f"{first.how}, one after another", run, first.work)


def jitted(library, how, solve, model, x, y):
    "A JAX program of the same field, with the dense layers into which ours folds."
    import jax_peer

    field, head = model.block.field, [*model.head.parameters()]
    weights, biases, _ = zip(*recognise(field, model.for_members(x)).dense())
    dense = [*weights, *(bias.squeeze(-1) for bias in biases)]
    states = x.flatten(1).numpy()
    run = jax_peer.training_iteration(solve, states, y.numpy(), [p.detach().numpy() for p in (*dense, *head)],
                                      model.members)

    def as_ours(gradients):
        tensors = [torch.from_numpy(np.array(g)) for g in gradients]
        folding = torch.autograd.grad(dense, [*field.parameters()], tensors[:len(dense)], retain_graph=True)
        return [*folding, *tensors[len(dense):]]
    return Candidate(library, how, run, lambda steps: f"{int(np.max(steps))} steps", as_ours)


def jitted_euler(model, x, y, activation="relu"):
    "diffrax with each of its adjoints, and the bare loop."
    import jax_peer
    field = getattr(jax_peer, f"{activation}_field")
    solves = [("diffrax", f"jit, {how}", solve) for how, solve in jax_peer.euler_solves(N_STEPS, field).items()]
    solves.append(("jax", "jit, lax.scan", jax_peer.scan_solve(N_STEPS, field)))
    return [jitted(*solve, model, x, y) for solve in solves]


def jitted_dopri5(model, x, y, activation="relu"):
    import jax_peer
    field = getattr(jax_peer, f"{activation}_field")
    candidates = [jitted("diffrax", f"jit, {how}", solve, model, x, y)
                  for how, solve in jax_peer.dopri5_solves(TOL, field=field).items()]
    # Its last step ends at T, ours and torchdiffeq's interpolate back to it. Across the kinks of ReLU the gradients of two
    # such grids differ by about a hundredth: as far as each is from the gradient at tolerance 1e-9.
    for candidate in candidates:
        candidate.rtol = 5e-2
    return candidates


# --- cases ----------------------------------------------------------------------------------------------------------

def cases(x, y, data, with_jax):
    "All cases, from the same seeds."
    euler, dopri5 = f"euler@1/{N_STEPS}", f"dopri5@{TOL:g}"
    make = lambda solver, seed=0, **options: NeuralODE.for_data(data, solver, channels=CHANNELS, seed=seed, **options)
    by_torchdiffeq = dict(method="euler", options=dict(step_size=1 / N_STEPS))
    single, ensemble, adaptive = make(euler), make(euler, range(MEMBERS)), make(dopri5)
    alone = [original(member(ensemble, i), x, y, **by_torchdiffeq) for i in range(MEMBERS)]
    paper = [
        Case(f"Euler, {N_STEPS} steps, one model",
             [original(single, x, y, **by_torchdiffeq), ours("native", single, x, y),
              ours("recomputed (checkpoint)", make(euler, gradient="checkpoint"), x, y),
              *(jitted_euler(single, x, y) if with_jax else ())],
             "native at least 1.2 × diffrax", operations=euler_operations()),
        Case(f"Euler, {N_STEPS} steps, ensemble of {MEMBERS}",
             [one_after_another(alone), ours("native ensemble", ensemble, x, y),
              *(jitted_euler(ensemble, x, y) if with_jax else ())],
             "no slower than 39 × torchdiffeq and 2.7 × diffrax", MEMBERS, euler_operations()),
        Case(f"dopri5, tolerance {TOL:g}, one model",
             [original(adaptive, x, y, method="dopri5", rtol=TOL, atol=TOL), ours("native", adaptive, x, y),
              *(jitted_dopri5(adaptive, x, y) if with_jax else ())],
             "native at least 1.2 × diffrax, at torchdiffeq's NFE"),
    ]
    return paper + users_cases(x.flatten(1), y, with_jax)


def users_cases(x, y, with_jax):
    "MLPs with tanh between the layers: as in many tutorials, in a large batch, and wide."
    small, wide = (2, 64, 64, 2), (64, 256, 256, 64)
    many = x.repeat(32, 1) + 0.1 * torch.randn(32 * len(x), 2, generator=torch.Generator().manual_seed(0))
    long = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))

    def euler_case(title, goals, widths, x, y, share):
        model = mlp_model(f"euler@1/{N_STEPS}", *widths)
        candidates = [original(model, x, y, "MLP", method="euler", options=dict(step_size=1 / N_STEPS)), ours("native", model, x, y)]
        if with_jax:
            candidates += jitted_euler(model, x, y, "tanh")
        return Case(title, candidates, goals, operations=euler_operations(widths, len(x)), share=share)

    adaptive = mlp_model(f"dopri5@{TOL:g}", *small)
    by_dopri5 = [original(adaptive, x, y, "MLP", method="dopri5", rtol=TOL, atol=TOL), ours("native", adaptive, x, y)]
    if with_jax:
        by_dopri5 += jitted_dopri5(adaptive, x, y, "tanh")
    return [
        euler_case("a user's tanh MLP 2-64-64-2, batch 128, Euler", "at least 5 × torchdiffeq and 1.1 × diffrax", small, x, y, 1.),
        Case(f"the same, dopri5, tolerance {TOL:g}", by_dopri5, "at least 6 × torchdiffeq and 1.1 × diffrax"),
        euler_case("the same, batch 4096, Euler", "at least 1.2 × torchdiffeq and 1.0 × diffrax", small, many, y.repeat(32), 0.2),
        euler_case("64-256-256-64, batch 256, Euler", "at least 1.2 × torchdiffeq and 1.0 × diffrax", wide, long,
                   y.repeat(2), 0.3),
    ]


# --- measurement ----------------------------------------------------------------------------------------------------

def difference(a, b):
    "Relative, of two lists of tensors taken as one vector each."
    a, b = (torch.cat([part.flatten() for part in side]) for side in (a, b))
    return float((a - b).norm() / b.norm())


def check_equal_work(case):
    "What each candidate reports of its work. Stops if one computes another loss or gradient than the first."
    reports = []
    for candidate in case.candidates:
        loss, gradients, work = candidate.run()
        loss, gradients = float(np.sum(loss.tolist())), candidate.as_ours(gradients)
        if not reports: first_loss, first_gradients = loss, gradients
        off = max(abs(loss / first_loss - 1), difference(gradients, first_gradients))
        reports.append(candidate.work(work))
        if not off <= candidate.rtol:
            sys.exit(f"{case.title}: {candidate.library}, {candidate.how} is off by {off:.1e}; it was not timed")
        if candidate.library == OURS and reports[-1] != reports[0]:
            sys.exit(f"{case.title}: ours took {reports[-1]}, {case.candidates[0].library} {reports[0]}; it was not timed")
    return reports


def measure(case, rounds, peak, clock):
    "One row per candidate; times in milliseconds per member."
    work, rows = check_equal_work(case), []
    rounds = max(5, round(rounds * case.share))
    times_of_all = timing.in_turns([candidate.run for candidate in case.candidates], rounds, clock, TURN)
    for candidate, did, times in zip(case.candidates, work, times_of_all):
        least, low, median, high = 1e3 / case.members * np.quantile(times, [0, 0.25, 0.5, 0.75])
        rows.append(dict(case=case.title, library=candidate.library, how=candidate.how, work=did, members=case.members,
                         rounds=rounds, least_ms=least, median_ms=median, lower_quartile_ms=low, upper_quartile_ms=high,
                         of_peak=case.operations and case.operations / (median / 1e3) / peak))
    frame = pd.DataFrame(rows)
    for library in (ORIGINAL, "diffrax"):  # against the fastest way of each
        frame[f"times_{library}"] = frame.median_ms[frame.library == library].min() / frame.median_ms
    return frame


# --- report ---------------------------------------------------------------------------------------------------------

def machine_facts():
    packages = ["torch", ORIGINAL, *(peer for peer in PEERS if importlib.util.find_spec(peer))]
    return dict(processor=timing.processor_name(), cores=os.cpu_count(), torch_threads=torch.get_num_threads(),
                python=platform.python_version(), **{name: version(name) for name in packages})


def markdown(headings, rows):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows))


def number(value, form):
    "`value` as text, or a dash where there is none."
    return "–" if pd.isna(value) else format(value, form)


def table(frame):
    headings = ["library", "how", "work", "least ms per member", "median", "quartiles", "× torchdiffeq", "× diffrax", "of matmul peak"]
    return markdown(headings, [[
        row.library, row.how, row.work,
        f"{row.least_ms:.2f}", f"{row.median_ms:.2f}", f"{row.lower_quartile_ms:.2f} – {row.upper_quartile_ms:.2f}",
        number(row.times_torchdiffeq, ".1f"), number(row.times_diffrax, ".1f"), number(row.of_peak, ".2f"),
    ] for row in frame.itertuples()])


# --- command --------------------------------------------------------------------------------------------------------

def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="turns of each candidate (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="5 rounds, to see that everything runs")
    parser.add_argument("--only", default="", help="a part of the titles of the cases to run (default: all)")
    parser.add_argument("--threads", type=int, help="threads of torch and of JAX (default: their own choice)")
    parser.add_argument("--cpu-time", action="store_true", help="time of the processor, of all threads, for a machine with other work")
    parser.add_argument("--csv", help="also write all rows, with the machine's facts, to this file")
    return parser.parse_args()


def set_threads(n):
    "For torch, and for JAX, which reads the environment when it is imported."
    torch.set_num_threads(n)
    os.environ["NPROC"] = str(n)
    if n == 1: os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"


def main():
    arguments = parse_arguments()
    if arguments.threads: set_threads(arguments.threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing: print(f"Skipped, not installed: {', '.join(missing)} (pip install -e \".[bench]\").\n")
    facts, peak = machine_facts(), timing.matmul_peak()
    print(*(f"{name} {value}" for name, value in facts.items()), sep=" · ")
    print(f"Matmul peak in float32: {peak / 1e9:.0f} · 10⁹ operations per second")

    data = load("sphere2", seed=0)
    frames = []
    for case in cases(data.x_train[:BATCH], data.y_train[:BATCH], data, not missing):
        if arguments.only not in case.title:
            continue
        frame = measure(case, 5 if arguments.quick else arguments.rounds, peak,
                        time.process_time if arguments.cpu_time else time.perf_counter)
        print(f"\n**{case.title}** (goal: {case.goals})\n\n{table(frame)}", flush=True)
        frames.append(frame)
    if arguments.csv:
        pd.concat(frames).assign(peak_gflops=peak / 1e9, **facts).to_csv(arguments.csv, index=False)


if __name__ == "__main__": main()
