"""One training iteration with and without `retain_memory`: what it costs to get the same pages from the system again.

Each setting runs in processes of its own, taking turns. Time of the processor, split into the program's own and the system's.
"""
import argparse
import json
import resource
import subprocess
import sys

import pandas as pd
import torch

from neuralode_resnet.datasets import Data, load
from neuralode_resnet.models import NeuralODE, retain_memory
from neuralode_resnet.training import fit
from training_iteration import machine_facts, markdown

SETTINGS = {"Sphere2, five members": dict(data="sphere2", seed=range(5), channels=32, batch_size=128, times=20),
            "Sphere900": dict(data="sphere900", seed=0, channels=32, batch_size=128),
            "Sphere900, three members": dict(data="sphere900", seed=range(3), channels=32, batch_size=128),
            "images, 16 channels": dict(data="images", seed=0, channels=16, batch_size=64),
            "images, 128 channels": dict(data="images", seed=0, channels=128, batch_size=64)}


def data_of(name):
    "A data set; noise in the form of CIFAR-10, since the time does not depend on what is in the images."
    if name != "images": return load(name, seed=0)
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(256, 3, 32, 32, generator=draw), torch.randint(0, 10, (256,), generator=draw)
    return Data("noise", x, y, x, y, n_classes=10)


def used():
    "Seconds of the processor so far, the program's own and the system's."
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def measure(data, seed, channels, batch_size, kept, iterations, times=1):
    "Milliseconds of the processor for an iteration, and peak of memory in MB."
    if kept and not retain_memory(): raise SystemExit("the C library is not glibc; there is nothing to compare")
    torch.set_num_threads(1)
    data = data_of(data)
    model = NeuralODE.for_data(data, "euler@1/4", channels, seed=seed)
    fit(model, data, 2, batch_size, seed=seed, progress=False)
    before = used()
    fit(model, data, iterations * times, batch_size, seed=seed, progress=False)
    own, system = ((b - a) / (iterations * times) * 1e3 for a, b in zip(before, used()))
    return dict(own_ms=own, system_ms=system, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=8, help="timed in every process, twenty times as many where they are short")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each setting")
    parser.add_argument("--measure", help=argparse.SUPPRESS) # one setting, as JSON
    options = parser.parse_args()
    if options.measure: return print(json.dumps(measure(iterations=options.iterations, **json.loads(options.measure))))
    rows = []
    for _ in range(options.rounds):
        for name, setting in SETTINGS.items():
            for kept in (False, True):
                what = json.dumps(dict(setting, seed=list(s) if isinstance(s := setting["seed"], range) else s, kept=kept))
                command = [sys.executable, __file__, "--measure", what, "--iterations", str(options.iterations)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append(dict(setting=name, kept=kept, **json.loads(done.stdout.splitlines()[-1])))
    table = pd.DataFrame(rows).groupby(["setting", "kept"], sort=False).median()
    table["ms"] = table.own_ms + table.system_ms
    table["times as fast"] = table.groupby("setting").ms.transform("first") / table.ms
    print(" · ".join(f"{key} {value}" for key, value in machine_facts().items()), "", sep="\n")
    print(markdown(["setting", "memory kept", "own ms", "system ms", "peak MB", "ms", "× as fast"],
                   [[name, "yes" if kept else "no", *(f"{v:.0f}" for v in row[:4]), f"{row[4]:.1f}"] for (name, kept), row in
                    zip(table.index, table.to_numpy())]))


if __name__ == "__main__": main()
