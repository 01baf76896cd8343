"Processes that are killed, told to stop, or out of room; stores behind links, read-only ones, and clocks that go backwards."
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from unittest import mock

import neuralode_resnet.cli.main  # noqa: F401  (a user to whom permissions apply may not be able to import it)
from neuralode_resnet.audit import audit
from neuralode_resnet.datasets import load
from neuralode_resnet.experiments import collect, run, runs, status, sweep, to_toml
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.training import fit

from .board import Kind, check_kept, check_same, command, contents, end_of, refused, run_command, start
from .damage import BLOCK, CONTROLLED, OTHER, SMALL, finished, result_of, rows_of

TRAIN = ["train", "sphere2", "--scheme", "recommended", "--iterations", "120", "--channels", "4", "--members", "2", "--lr",
         "1e-3", "--check-every", "20", "--device", "cpu"]
SWEEP = """
data = "sphere2"
train_solver = ["euler@1/2", "euler@1/3", "dopri5@1e-1"]
test_solvers = ["rk4@1/4"]
seeds = [0, 1]
iterations = 50
channels = 4
lr = 1e-3
"""




def brief(words):
    "The command line with short blocks, so that a short training has many files."
    act = command(*words)

    def brief_act():
        runs.BLOCK = BLOCK
        act()
    return brief_act


def trained(folder):
    "What the training says when nothing disturbs it, and how long it takes."
    log = folder / "log"
    begun = time.monotonic()
    assert end_of(start(brief([*TRAIN, "--out", folder / "undisturbed"]), log)) == 0, log.read_text()
    return result_of(folder / "undisturbed"), time.monotonic() - begun


def swept(folder):
    "What a sweep says when nothing disturbs it, its file, and how long it takes."
    file = folder / "sweep.toml"
    file.write_text(SWEEP)
    log = folder / "log"
    begun = time.monotonic()
    words = ["sweep", file, "--out", folder / "undisturbed", "--jobs", 1]
    assert end_of(start(brief(words), log)) == 0, log.read_text()
    return results_of(folder / "undisturbed"), time.monotonic() - begun, file


def results_of(store):
    return {path.name: result_of(path) for path in Path(store).iterdir() if path.is_dir()}


def stop(words, log, seconds, number):
    "Send a signal after some seconds; the status, and what was said. A process that has ended before keeps its status."
    pid = start(brief(words), log)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(.005)
    os.kill(pid, number)
    status_ = end_of(pid)
    said = Path(log).read_text(errors="replace")
    assert status_ in (0, 130, -number), f"status {status_}: {said[-1500:]}"
    if status_ == 130 and said:  # before its work begins a command may end in silence
        assert "goes on" in said, said[-1500:]
        assert "Traceback" not in said, said[-1500:]
    return status_, said


def _killed_training(times, number):
    def attempt(scene, rng, i, folder):
        expected, seconds = scene
        words = [*TRAIN, "--out", folder / "run", "--resume"]
        for _ in range(times):
            stop(words, folder / "log", rng.uniform(0, 1.1 * seconds), number)
        log = folder / "log"
        assert end_of(start(brief(words), log)) == 0, log.read_text()[-1500:]
        check_same(result_of(folder / "run"), expected, "another result after a kill")
        left = [name for name in os.listdir(folder / "run") if name[0] == "." and name != ".lock"]
        assert not left, f"left: {left}"
        return "right"
    return attempt


def _killed_sweep(number):
    def attempt(scene, rng, i, folder):
        expected, seconds, file = scene
        words = ["sweep", file, "--out", folder / "a store", "--jobs", 1]
        for _ in range(2):
            stop(words, folder / "log", rng.uniform(0, 1.1 * seconds), number)
        log = folder / "log"
        assert end_of(start(brief(words), log)) == 0, log.read_text()[-1500:]
        check_same(results_of(folder / "a store"), expected, "another result after a kill")
        return "right"
    return attempt


class Killed(BaseException):
    pass


def _ended_at_a_file(scene, rng, i, folder):
    "The process ends at the n-th file that is put in its place, before or after it is."
    expected = scene
    n, after = rng.randrange(14), rng.random() < .5
    replace, left = Path.replace, count()

    def counted(self, target):
        if next(left) < n:
            return replace(self, target)
        if after:
            replace(self, target)
        raise Killed
    runs.BLOCK = BLOCK
    with mock.patch.object(Path, "replace", counted):
        try:
            run(CONTROLLED, folder / "store")
        except Killed:
            pass
    check_same(result_of(run(CONTROLLED, folder / "store")), expected, "another result")
    return "right"


def undisturbed(folder):
    runs.BLOCK = BLOCK
    return result_of(run(CONTROLLED, folder / "undisturbed"))


# No room

def _full_disk(scene, rng, i, folder):
    "No file may grow beyond some bytes: the command says so, and goes on once there is room."
    expected, _ = scene
    words = [*TRAIN, "--out", folder / "run", "--resume"]
    act, limit = brief(words), round(10 ** rng.uniform(0, 4.6))

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        act()
    log = folder / "log"
    reading, writing = os.pipe()  # a file could not hold what is said

    def say():
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        limited()
    pid = start(say)
    os.close(writing)
    said = b""
    while piece := os.read(reading, 65536):
        said += piece
    os.close(reading)
    status_, said = end_of(pid), said.decode(errors="replace")
    assert status_ in (0, 2), f"limit {limit}: status {status_}: {said[-1500:]}"
    assert "Traceback" not in said, said[-2500:]
    if status_ == 2:
        assert any(word in said.lower() for word in ("file too large", "no space", "write", "room")), said[-800:]
    assert end_of(start(brief(words), log)) == 0, f"limit {limit}: {log.read_text()[-1500:]}"
    check_same(result_of(folder / "run"), expected, f"another result after a disk of {limit} bytes")
    return "refused" if status_ == 2 else "right"


# Places

NAMES = ["a b", "ünï çødé", "日本", "x" * 120, "-dash", "a'b\"c", "{curly}", "50%", "#1", "new\nline", "~", "$HOME", "a,b;c", "[1]"]


def _odd_place(scene, rng, i, folder):
    "A store with a strange name, behind a link or not, holds what any other holds."
    store, rows, _ = scene
    name = NAMES[i % len(NAMES)]
    real = folder / name / "store"
    real.parent.mkdir()
    reached = real
    if rng.random() < .5:
        real.mkdir()
        reached = folder / "link"
        reached.symlink_to(real, target_is_directory=True)
    sweep([SMALL, OTHER], reached, jobs=1, progress=False)
    check_same(rows_of(reached).replace("\r", ""), rows, "other rows")
    check_same(results_of(real), results_of(store), "other results")
    assert status(reached).state.tolist() == ["done", "done"]
    status_, said = run_command(folder / "log", "collect", reached, "--out", folder / "table.csv")
    assert status_ == 0, said
    return "right"


def unprivileged(act):
    "`act` as a user to whom permissions apply."
    def acting():
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        act()
    return acting


READ_ONLY = {  # command -> (status, what it says)
    "status": (0, "2 done"), "swap": (0, "trained with"), "collect": (0, "Written"), "sweep": (0, "Done"), "audit": (None, ""),
    "sweep more": (1, "Permission denied"), "train": (2, "Permission denied"), "train --force": (2, "Permission denied"),
}


def finished_and_audited(folder):
    "Two finished runs; afterwards everything is imported that an audit needs."
    found = finished(folder)
    data = load("sphere2", seed=0)
    audit(NeuralODE.for_data(data, "euler@1/2", channels=4), data.x_test[:20], data.y_test[:20])
    return found


def _read_only(scene, rng, i, folder):
    "In a store that may not be written to everything can be read, and what has to write says that it may not."
    store = shutil.copytree(scene[0], folder / "store")
    (folder / "sweep.toml").write_text("test_solvers = ['euler@1/4', 'rk4@1/4']\n" + "\n".join(
        line for line in to_toml(SMALL).splitlines() if not line.startswith(("test_solvers", "    ", "]", "lr"))
    ).replace("seeds = [", "lr = [0.001, 0.0001]\nseeds = [0, 1]"))
    outside = folder / "outside"
    outside.mkdir()
    os.chmod(outside, 0o777)
    for path in (folder.parent, folder):
        os.chmod(path, 0o755)
    lone = shutil.copytree(store / SMALL.name, folder / "lone")
    for place in (store, lone):
        for path in (*place.rglob("*"), place):
            os.chmod(path, 0o555 if path.is_dir() else 0o444)
    word = list(READ_ONLY)[i % len(READ_ONLY)]
    words = {
        "status": ["status", store], "swap": ["swap", store, "--device", "cpu"],
        "collect": ["collect", store, "--out", outside / "table.csv"],
        "sweep": ["sweep", folder / "sweep.toml", "--out", store, "--jobs", 1], "audit": ["audit", lone, "--member", 0],
        "sweep more": ["sweep", folder / "more.toml", "--out", store, "--jobs", 1],
        "train": ["train", "sphere2", "--solver", "euler@1/2", "--iterations", 2, "--out", folder / "new"],
        "train --force": ["train", "sphere2", "--solver", "euler@1/2", "--iterations", 2, "--out", lone, "--force"],
    }[word]
    (folder / "more.toml").write_text(to_toml(SMALL).replace("iterations = 40", "iterations = 3"))
    before = contents(folder, but=("log", "table.csv", ".lock"))
    log = folder / "log"
    status_ = end_of(start(unprivileged(command(*words)), log))
    said = log.read_text()
    assert "Traceback" not in said, said[-1500:]
    expected, words_said = READ_ONLY[word]
    assert (status_ in (0, 1, 4)) if expected is None else status_ == expected, f"{word}: {status_}: {said[-800:]}"
    assert words_said in said, said[-800:]
    check_kept(before, contents(folder))
    return "refused" if expected == 2 else "right"


def _backwards(scene, rng, i, folder):
    "The clock runs backwards, and files are of tomorrow."
    expected = scene
    begin, step = time.time(), rng.choice([1., 3600., 10 ** 7])
    ticks = count()

    def now():
        return begin - step * next(ticks)
    runs.BLOCK = BLOCK
    with mock.patch.object(time, "time", now):
        try:
            run(CONTROLLED, folder / "store", callbacks=[lambda training: setattr(training, "stop", training.iteration == 20 or None)])
        except runs.RunStopped:
            pass
        for path in (folder / "store").rglob("*"):
            os.utime(path, (begin + 10 ** 7,) * 2)
        found = result_of(run(CONTROLLED, folder / "store"))
        assert status(folder / "store").state.tolist() == ["done"]
    check_same(found, expected, "another result")
    assert json.loads((folder / "store" / CONTROLLED.name / "done.json").read_text())["wall_s"] >= 0
    return "right"


# A cluster

def _killed_scheduler(scene, rng, i, folder):
    "The scheduler of a cluster is killed in mid-sweep: it is said, and the same call goes on without it."
    expected, _, file = scene
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def dask(*words):
        log = open(folder / f"{words[0]}.log", "w")
        return subprocess.Popen([sys.executable, "-m", "dask", *words], stdout=log, stderr=log, env=env)
    found = folder / "scheduler.json"
    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(found))
    worker = dask("worker", "--scheduler-file", str(found), "--host", "127.0.0.1", "--nthreads", "2", "--no-nanny",
                  "--no-dashboard", "--local-directory", str(folder))
    try:
        while not found.exists():
            time.sleep(.1)
        while "Registered to" not in (folder / "worker.log").read_text():
            time.sleep(.1)
        address = json.loads(found.read_text())["address"]
        store = folder / "store"
        longer = folder / "longer.toml"
        longer.write_text(SWEEP.replace("iterations = 50", "iterations = 20000"))
        pid = start(command("sweep", longer, "--out", store, "--scheduler", address), folder / "log")
        while not any(store.glob("*/progress.json")):
            time.sleep(.1)
            assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, (folder / "log").read_text()
        scheduler.kill()
        status_ = end_of(pid)
        said = (folder / "log").read_text()
        assert "Traceback" not in said, said[-2500:]
        assert status_ == 2 and "the same call goes on" in said, f"{status_}: {said[-2500:]}"
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    return "refused"


# Memory

def _resident():
    "Bytes of memory that this process holds."
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _memory(scene, rng, i, folder):
    "What is repeated does not grow: between the second and the last quarter the memory of the process stays."
    data = load("sphere2", seed=0)
    model = NeuralODE.for_data(data, "euler@1/2", channels=4)
    held = []

    def note(*_):
        held.append(_resident())

    what = ("fit", "audit", "run")[i % 3]
    if what == "fit":
        fit(model, data, 5000, lr=1e-3, callbacks=[note], progress=False)
    for n in range({"fit": 0, "audit": 120, "run": 60}[what]):
        if what == "audit":
            audit(model, data.x_test[:20], data.y_test[:20])
        else:
            runs.run_into(folder / "run", SMALL)
            shutil.rmtree(folder / "run")
        note()
    quarter = len(held) // 4
    before, after = (sorted(part)[len(part) // 2] for part in (held[quarter:2 * quarter], held[3 * quarter:]))
    grown = (after - before) / (len(held) / 2)
    assert grown * 5000 < 60e6, f"{what} grows by {grown:.0f} bytes each time, {len(held)} times"
    return "right"


KINDS = [
    Kind("train killed (kill -9)", "--resume ends with the same bits, nothing is left behind", 20, 1,
         _killed_training(1, signal.SIGKILL), trained, limit=300.),
    Kind("one training killed twenty times (kill -9)", "--resume ends with the same bits", 1, 0,
         _killed_training(20, signal.SIGKILL), trained, limit=600.),
    Kind("train told to stop (SIGTERM)", "one sentence, status 130; --resume ends with the same bits", 8, 1,
         _killed_training(2, signal.SIGTERM), trained, limit=300.),
    Kind("train told to stop (SIGINT)", "one sentence, status 130; --resume ends with the same bits", 8, 1,
         _killed_training(2, signal.SIGINT), trained, limit=300.),
    Kind("sweep killed (kill -9)", "the same call ends with the same bits", 6, 1, _killed_sweep(signal.SIGKILL), swept, limit=300.),
    Kind("sweep told to stop (SIGTERM)", "one sentence; the same call ends with the same bits", 4, 0,
         _killed_sweep(signal.SIGTERM), swept, limit=300.),
    Kind("a run ended at any of its files", "the same call ends with the same bits", 30, 2, _ended_at_a_file, undisturbed),
    Kind("disk full", "one sentence; --resume ends with the same bits", 14, 1, _full_disk, trained, limit=300.),
    Kind("a store with a strange name, or behind a link", "the same rows", 14, 1, _odd_place, finished),
    Kind("a store that may only be read", "reading works, writing is refused", 16, 2, _read_only, finished_and_audited),
    Kind("a clock that goes backwards", "the same result to the last bit", 6, 1, _backwards, undisturbed),
    Kind("a cluster's scheduler killed", "one sentence that the same call goes on", 1, 0, _killed_scheduler, swept, limit=400.),
    Kind("memory of long series", "less than 60 MB in 5,000 iterations of fit; at the rate of 120 audits, 60 runs", 3, 0, _memory, limit=900.),
]
