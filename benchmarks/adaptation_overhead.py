"""What step and tolerance adaptation add to training, at the same number of steps: blocks of 50 iterations, in turns.

Processor time is compared, so that other programs on the machine do not count.

One block trains with an adapter, which checks once and is then set back to the step or tolerance that it had; the other
trains without. The blocks of each kind are compared by their medians.
"""
import argparse
import statistics
import time

import torch

from neuralode_resnet.adaptation import StepAdapter, ToleranceAdapter
from neuralode_resnet.datasets import load
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.training import fit

CASES = [("euler@1/16", "midpoint", 5), ("euler@1/64", "midpoint", 1), ("euler@1/64", "midpoint", 5), ("euler@1/64", "rk4", 5),
         ("midpoint@1/32", "rk4", 5), ("dopri5@1e-3", "dopri5", 1), ("fehlberg2@1e-3", "dopri5", 1)]


def overhead(solver, test_method, members, blocks):
    "Processor seconds of a block without and with adaptation, and evaluations of a check over those of a block."
    data, seeds = load("sphere2", seed=0), range(members)
    model = NeuralODE.for_data(data, solver, seed=seeds if members > 1 else 0)
    adapter = (StepAdapter if model.block.solver.fixed else ToleranceAdapter)(model, test_method)
    adapter.start(model.for_members(data.x_train[:128]))
    own = NeuralODE.for_data(data, solver).block.solver
    values = [own.step_size if own.fixed else own.tol] * members
    times = {False: [], True: []}
    for block in range(2 * blocks + 2):
        adapted = bool(block % 2)
        adapter.set_values(values)
        start = time.process_time()
        fit(model, data, 50, lr=1e-6, seed=seeds if members > 1 else 0, callbacks=[adapter] * adapted, progress=False)
        if block > 1: times[adapted].append(time.process_time() - start)
    share = adapter.history.nfe.mean() / (50 * adapter.history.train_nfe.mean())
    return *(statistics.median(times[kind]) for kind in (False, True)), share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20)
    blocks = parser.parse_args().blocks
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}; goal: at most 6 % of the training time")
    print("| training solver | test | members | CPU ms per iteration | with adaptation | overhead | evaluations of checks |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for solver, test_method, members in CASES:
        without, adapted, share = overhead(solver, test_method, members, blocks)
        print(f"| {solver} | {test_method} | {members} | {20 * without:.2f} | {20 * adapted:.2f} | {adapted / without - 1:+.1%} | {share:.1%} |",
              flush=True)
