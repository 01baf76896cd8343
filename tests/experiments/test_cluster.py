"""A sweep on a cluster: a real Dask scheduler, two worker processes on the loopback interface, one of them killed."""
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from neuralode_resnet.experiments import Experiment, status, sweep

pytest.importorskip("distributed")
EXPERIMENTS = [Experiment("sphere2", f"euler@1/{n}", ["rk4@1/8"], seeds=[0, 1], iterations=1500, channels=4, lr=1e-3)
               for n in (2, 3, 4, 5)]


@pytest.fixture
def cluster(tmp_path):
    "Address of a scheduler, and its two worker processes."
    def start(command, *arguments):
        log = open(tmp_path / f"{command}-{len(processes)}.log", "w")
        processes.append(subprocess.Popen([sys.executable, "-m", "dask", command, *arguments], stdout=log, stderr=log))
        return processes[-1]
    processes, found = [], tmp_path / "scheduler.json"
    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(found))
    workers = [start("worker", "--scheduler-file", str(found), "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny",
                     "--no-dashboard", "--local-directory", str(tmp_path)) for _ in range(2)]
    yield found, workers
    for process in processes:
        process.kill()
        process.wait()


def wait_for(condition, seconds=600):
    "A busy machine takes minutes to start a process that imports torch."
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(.1)


def address_of(file):
    "The scheduler's address, once both workers have joined it."
    from distributed import Client
    wait_for(file.exists)
    address = json.loads(file.read_text())["address"]
    with Client(address, set_as_default=False) as client: client.wait_for_workers(2, timeout=600)
    return address


def results_of(store):
    return {e.name: (store / e.name / "swap.csv").read_bytes() for e in EXPERIMENTS}


@pytest.mark.slow
def test_the_work_of_a_killed_worker_is_taken_up_by_the_other(cluster, tmp_path):
    file, (victim, _) = cluster
    address, store = address_of(file), tmp_path / "store"
    outcome = {}
    sweeping = threading.Thread(target=lambda: outcome.update(failed=sweep(EXPERIMENTS, store, scheduler=address, progress=False)))
    sweeping.start()
    both_at_work = lambda: (store / "store.toml").exists() and status(store).state.eq("running").sum() == 2
    wait_for(both_at_work)
    victim.send_signal(signal.SIGKILL)
    assert not status(store).state.eq("done").any()  # both were in mid-run
    sweeping.join(timeout=1200)
    assert outcome["failed"] == {} and status(store).state.eq("done").all()
    sweep(EXPERIMENTS, tmp_path / "local", jobs=1, progress=False)
    assert results_of(store) == results_of(tmp_path / "local")
