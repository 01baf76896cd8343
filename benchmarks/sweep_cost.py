"""What the Euler half of Figure 4 a costs: 8 step counts × 5 seeds × 10,000 iterations, and all tests.

Ours is measured with the sweep itself, at two short lengths, and extrapolated along the line through them, so that starting
processes and testing are counted once. The rival is the arrangement of the original code: one run at a time, torchdiffeq's
Euler around Conv1d. Its iterations are timed alone, one model at a time, and only the iterations are counted.
"""
import argparse
import dataclasses
import os
import sys
import tempfile
from importlib.metadata import version

import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from torchdiffeq import odeint

import timing
from neuralode_resnet.datasets import load
from neuralode_resnet.experiments import sweep
from neuralode_resnet.experiments.reproductions import grids_of
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.solvers import Solver

GRID = grids_of("figure_4_euler")["figure_4_euler"]
ITERATIONS, SEEDS, CORES = GRID[0].iterations, len(GRID[0].seeds), os.cpu_count()
GOAL_MINUTES = 35  # on two cores


def sweep_seconds(iterations, **options):
    "Wall time of the whole grid with so many iterations, in a store of its own."
    experiments = [dataclasses.replace(e, iterations=iterations) for e in GRID]
    with tempfile.TemporaryDirectory() as folder:
        failed = []
        took = timing.seconds(lambda: failed.extend(sweep(experiments, f"{folder}/store", progress=False, **options)))
    if failed: sys.exit(f"runs failed: {failed}")
    return took


def ours(lengths, repeats=3):
    "A row for each way of using the cores; of each length the fastest sweep, since what else a machine does only adds."
    ways = {"one process a core, one thread each": dict(jobs=CORES), "one process, one thread a core": dict(jobs=1, threads=CORES)}
    for how, options in ways.items():
        short, long = (min(sweep_seconds(n, **options) for _ in range(repeats)) for n in lengths)
        per_iteration = (long - short) / (lengths[1] - lengths[0])
        yield dict(arrangement=f"ours, {how}", measured=f"sweeps of {lengths[0]} and {lengths[1]} iterations, the fastest of {repeats}",
                   minutes=(short + per_iteration * (ITERATIONS - lengths[0])) / 60)


def original_iteration(n_steps, data):
    "A function that takes one training iteration as the original did: torchdiffeq, Conv1d, Adam."
    model, times = NeuralODE.for_data(data, Solver("euler", 1 / n_steps)), torch.tensor([0., 1.])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x, y = data.x_train[:128], data.y_train[:128]

    def iteration():
        optimizer.zero_grad()
        end = odeint(model.block.field, x, times, method="euler", options=dict(step_size=1 / n_steps))[-1]
        cross_entropy(model.head(end), y).backward()
        optimizer.step()
    return iteration


def original(rounds):
    "One row: the iterations of all runs, one run at a time."
    data = load("sphere2")
    medians = [timing.interleaved([original_iteration(e_steps, data)], rounds)[0][1]
               for e_steps in (Solver.parse(e.train_solver).n_steps() for e in GRID)]
    return dict(arrangement="original: torchdiffeq and Conv1d, one run at a time", measured=f"median of {rounds} iterations a step count",
                minutes=sum(medians) * ITERATIONS * SEEDS / 60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few iterations, to see that everything runs")
    parser.add_argument("--csv", help="also write the rows to this file")
    arguments = parser.parse_args()
    lengths, rounds = ((5, 15), 3) if arguments.quick else ((50, 250), 20)
    facts = dict(processor=timing.processor_name(), cores=CORES, torch=version("torch"), torchdiffeq=version("torchdiffeq"))
    print(*(f"{name} {value}" for name, value in facts.items()), sep=" · ")
    rows = []
    for row in (*ours(lengths), original(rounds)):
        print(f"{row['arrangement']}: {row['minutes']:.1f} minutes ({row['minutes'] / 60:.1f} hours), from {row['measured']}", flush=True)
        rows.append(row)
    best = min(row["minutes"] for row in rows[:-1])
    print(f"Ours takes {best:.1f} minutes on {CORES} cores (goal: under {GOAL_MINUTES} on two), the original arrangement "
          f"{rows[-1]['minutes'] / best:.0f} times as long.")
    if arguments.csv: pd.DataFrame(rows).assign(**facts).to_csv(arguments.csv, index=False, float_format="%.4g")


if __name__ == "__main__": main()
