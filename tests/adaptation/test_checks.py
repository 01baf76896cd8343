"""Two processes that train together must take the same decisions: accuracies are averaged before anything is decided."""
import json
import os
import subprocess
import sys
import textwrap

import pytest

WORKER = textwrap.dedent("""
    import json, sys
    import torch, torch.distributed as dist
    from neuralode_resnet.adaptation import StepAdapter, ToleranceAdapter
    from neuralode_resnet.datasets import load
    from neuralode_resnet.models import NeuralODE

    rank, folder, solver = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    data = load("sphere2", seed=0)
    model = NeuralODE.for_data(data, solver, seed=0)
    with torch.no_grad():
        for weight in model.block.field.parameters():
            weight *= 2.5  # steep enough for solvers to differ
    adapter = StepAdapter(model, "rk4", check_every=1) if "euler" in solver else ToleranceAdapter(model, check_every=1, tol=1e-2)
    part = slice(500 * rank, 500 * rank + 500)             # another half of the samples for each process
    adapter.start(data.x_train[part][:64])
    if "euler" in solver:
        adapter.set_values([1.])                           # coarser than Hairer allows, so that there is something to decide
    for i in range(12):
        batch = torch.randint(500, (24,), generator=torch.Generator().manual_seed(100 * rank + i))
        adapter.step(data.x_train[part][batch], data.y_train[part][batch])
    log = adapter.history
    json.dump(dict(values=log[adapter.name].tolist() + adapter.values, decisions=log.decision.tolist(),
                   train=log.train_accuracy.tolist(), flips=log.flips.tolist()), open(f"{folder}/{rank}.json", "w"))
    dist.destroy_process_group()
""")


@pytest.mark.parametrize("solver", ["euler@1/4", "dopri5@1e-3"])
def test_two_processes_decide_alike(tmp_path, solver):
    env = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path), solver], env=env,
                                stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), errors
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["values"] == second["values"] and first["decisions"] == second["decisions"]
    assert first["train"] == second["train"]  # the averaged accuracies, the same to the last bit
    assert first["flips"] != second["flips"]  # flips are those of the own batch: the batches did differ
    assert len(set(first["decisions"])) > 1   # more than one branch was taken
