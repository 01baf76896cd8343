"""How the cost of a training iteration grows: time and memory against step count, batch, ensemble size and dimension.

Every point is a process of its own, forked from one that has loaded everything, and warmed by a few small iterations; the
peak of resident memory beyond that belongs to the point alone (read from /proc, so this needs Linux). One factor varies at a
time around Sphere2, Euler with 64 steps (8 in the series of dimensions), batch of 128, five seeds; one thread. Times are lower
quartiles, since what else a machine does only adds. The exponent p of cost ~ x^p is fitted to the upper half of each series,
where constant costs matter least.
"""
import argparse
import multiprocessing
import re
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import timing
from neuralode_resnet.datasets import load
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.training import fit

BASE = dict(n_steps=64, batch=128, members=5, dim=2)
SERIES = dict(n_steps=[4, 8, 16, 32, 64, 128, 256, 512], batch=[32, 64, 128, 256, 512, 1024],
              members=[1, 2, 5, 10, 20, 40], dim=[2, 4, 6, 8, 12, 16, 32, 64, 128])
LESS = dict(dim=dict(n_steps=8))  # what differs from BASE in a series, so that its dearest point fits into memory


def memory_mb(field):
    "`VmRSS`, resident now, or `VmHWM`, its peak since `forget_peak`, of this process."
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def forget_peak(): Path("/proc/self/clear_refs").write_text("5")


def train(setting, iterations, callbacks=()):
    data, seeds = load(f"sphere{setting['dim']}"), list(range(setting["members"]))
    model = NeuralODE.for_data(data, f"euler@1/{setting['n_steps']}", seed=seeds)
    fit(model, data, iterations, setting["batch"], seed=seeds, progress=False, callbacks=callbacks)


def measure_point(queue, setting, rounds):
    "Milliseconds of an iteration, and megabytes that it took beyond the start, put into `queue`."
    torch.set_num_threads(1)
    train(dict(n_steps=1, batch=4, members=1, dim=setting["dim"]), 2)
    forget_peak()
    before, marks = memory_mb("VmRSS"), []
    train(setting, rounds + 2, [lambda run: marks.append(time.perf_counter())])
    queue.put(dict(milliseconds=1e3 * np.quantile(np.diff(marks[1:]), .25), megabytes=memory_mb("VmHWM") - before))


def in_a_process(setting, rounds):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=measure_point, args=(queue, setting, rounds))
    process.start()
    result = queue.get(timeout=600)
    process.join()
    return result


def exponent(x, y):
    "Of y ~ x^p, by least squares in the logarithms, over the upper half of the series."
    half = len(x) // 2
    return float(np.polyfit(np.log(x[half:]), np.log(y[half:]), 1)[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few iterations and points, to see that everything runs")
    parser.add_argument("--csv", help="also write all points to this file")
    arguments = parser.parse_args()
    rounds, rows = (2 if arguments.quick else 30), []
    facts = dict(processor=timing.processor_name(), torch=version("torch"))
    print(*(f"{name} {value}" for name, value in facts.items()), sep=" · ")
    for factor, values in SERIES.items():
        for value in values[:3] if arguments.quick else values:
            setting = {**BASE, **LESS.get(factor, {}), factor: value}
            rows.append(dict(factor=factor, value=value, **setting, **in_a_process(setting, rounds)))
        series = [row for row in rows if row["factor"] == factor]
        for what in ("milliseconds", "megabytes"):
            p = exponent([row["value"] for row in series], [max(row[what], .1) for row in series])
            print(f"{factor}: {what} " + ", ".join(f"{row['value']}: {row[what]:.3g}" for row in series) + f"; exponent {p:.2f}", flush=True)
    if arguments.csv: pd.DataFrame(rows).assign(**facts).to_csv(arguments.csv, index=False, float_format="%.4g")


if __name__ == "__main__": main()
