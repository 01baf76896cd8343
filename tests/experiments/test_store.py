"""Runs that survive: killed, truncated, garbled, out of disk, shared by two processes, left by another version."""
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest

from neuralode_resnet.experiments import (
    Experiment, RunIsTaken, StoreError, collect, expand, open_store, run, runs, status, store as run_store, sweep,
    to_toml,
)
from neuralode_resnet.experiments.store import claimed, list_visible
from neuralode_resnet.files import read_toml
from neuralode_resnet.models import load_model
from neuralode_resnet.valid_training import find_scheme

SMALL = Experiment("sphere2", "euler@1/2", ["euler@1/4", "rk4@1/4"], seeds=[0, 1], iterations=40, channels=4, lr=1e-3)
SCHEME = find_scheme("midpoint-controller-and-depth-1-percent")
CONTROLLED = Experiment("sphere2", SCHEME.solver, ["rk4@1/4"], seeds=[0, 1], iterations=40, channels=4, lr=1e-3,
                        draw=SCHEME.draw, adaptation={**SCHEME.adaptation, "check_every": 7})
LONGER = """
data = "sphere2"
train_solver = ["euler@1/2", "euler@1/3", "dopri5@1e-1"]
test_solvers = ["rk4@1/4"]
seeds = [0, 1]
iterations = 2200
channels = 4
lr = 1e-3
"""
RESULTS = ("experiment.toml", "swap.csv", "metrics-*.csv", "adaptation.csv")  # files that hold neither times nor places


def contents(folder):
    "What a run directory says, bit for bit, times and machine left out."
    texts = {path.name: path.read_bytes() for pattern in RESULTS for path in folder.glob(pattern)}
    weights = load_model(folder / "model.pt").state_dict()
    return texts, {name: tensor.numpy().tobytes() for name, tensor in weights.items()}


def contents_of_store(store):
    return {folder.name: contents(folder) for folder in Path(store).iterdir() if folder.is_dir()}


# Killed

def start_sweep(file, store, jobs):
    return subprocess.Popen([sys.executable, "-c", "from neuralode_resnet.cli.main import main; main()", "sweep", str(file),
                             "--out", str(store), "--jobs", str(jobs)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def kill_during(process, seconds):
    "Kill -9 a random time after the sweep has said what it is going to do."
    process.stdout.readline()
    time.sleep(random.uniform(0, seconds))
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("kills, jobs", [(1, 1), pytest.param(20, 1, marks=pytest.mark.slow),
                                         pytest.param(20, 2, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_sweep_ends_with_the_same_bits(tmp_path, kills, jobs):
    file = tmp_path / "sweep.toml"
    file.write_text(LONGER)
    sweep(expand(read_toml(file)), tmp_path / "undisturbed", jobs=1, progress=False)
    for _ in range(kills):
        kill_during(start_sweep(file, tmp_path / "killed", jobs), 4)
    last = start_sweep(file, tmp_path / "killed", jobs)
    last.communicate(timeout=600)
    assert last.returncode == 0
    assert contents_of_store(tmp_path / "killed") == contents_of_store(tmp_path / "undisturbed")


@pytest.mark.slow
def test_what_a_killed_process_of_the_sweep_leaves_is_taken_up(tmp_path):
    psutil = pytest.importorskip("psutil")
    experiments, store, outcome = expand(tomllib.loads(LONGER)), tmp_path / "store", {}
    sweeping = threading.Thread(target=lambda: outcome.update(failed=sweep(experiments, store, jobs=2, progress=False)))
    sweeping.start()
    while not (store / "store.toml").exists() or status(store).state.eq("running").sum() < 2: time.sleep(.1)
    busy = [child for child in psutil.Process().children() if child.cpu_times().user > 1 and "loky" in " ".join(child.cmdline())]
    busy[0].kill()
    assert not status(store).state.eq("done").all()  # it was killed in mid-run
    sweeping.join(timeout=600)
    assert outcome["failed"] == {} and status(store).state.eq("done").all()


class Killed(BaseException):
    pass


def stop_at(monkeypatch, n, after):
    "Ends the process' work at the `n`-th file that is put in its place, before or after it is."
    replace, count = Path.replace, iter(range(n))

    def counted(self, target):
        try:
            next(count)
        except StopIteration:
            if after: replace(self, target)
            raise Killed from None
        return replace(self, target)
    monkeypatch.setattr(Path, "replace", counted)


@pytest.mark.parametrize("experiment", [SMALL, CONTROLLED], ids=["fixed", "drawn and controlled"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_ended_at_any_file_a_run_ends_with_the_same_bits(tmp_path, monkeypatch, after, experiment):
    monkeypatch.setattr(runs, "BLOCK", 15)
    expected = contents(run(experiment, tmp_path / "undisturbed"))
    for n in range(100):
        with monkeypatch.context() as patched:
            stop_at(patched, n, after)
            try:
                run(experiment, tmp_path / str(n))
                break
            except Killed:
                pass
        folder = run(experiment, tmp_path / str(n))
        assert contents(folder) == expected and "checkpoint.pt" not in list_visible(folder)
    assert n > 8  # every file was met


# Damaged

@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    "A store with a run that was stopped after its first checkpoint and metrics."
    monkeypatch.setattr(runs, "BLOCK", 15)

    def stop(run):
        if run.iteration == 20: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): run(SMALL, tmp_path / "store", callbacks=[stop])
    folder = tmp_path / "store" / SMALL.name
    assert {"checkpoint.pt", "metrics-00015.csv"} <= set(list_visible(folder))
    return folder


def truncate(path): path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
def garble(path): path.write_bytes(bytes(byte ^ 0x5a for byte in path.read_bytes()))
def remove(path): path.unlink()


@pytest.mark.parametrize("damage", [truncate, garble, remove])
@pytest.mark.parametrize("name", ["checkpoint.pt", "experiment.toml", "environment.json", "metrics-00015.csv"])
def test_a_damaged_file_stops_the_run_by_name_and_stays(interrupted, name, damage):
    damage(interrupted / name)
    before = {path.name: path.read_bytes() for path in interrupted.iterdir()}
    if (name, damage) == ("metrics-00015.csv", remove):  # all of it is in the checkpoint
        assert "done.json" in list_visible(run(SMALL, interrupted.parent))
        return
    with pytest.raises(ValueError, match=name.replace(".", r"\.")): run(SMALL, interrupted.parent)
    kept = {path.name: path.read_bytes() for path in interrupted.iterdir()}
    assert {name: kept.get(name) for name in before if name not in ("checkpoint.pt", ".lock")} == \
        {name: text for name, text in before.items() if name not in ("checkpoint.pt", ".lock")}


@pytest.mark.parametrize("damage", [truncate, garble, remove])
@pytest.mark.parametrize("name", ["swap.csv", "model.pt", "experiment.toml", "done.json"])
def test_a_damaged_result_is_neither_used_nor_computed_again(tmp_path, name, damage):
    folder = run(SMALL, tmp_path)
    damage(folder / name)
    if (name, damage) == ("done.json", remove):
        pytest.skip("without a done-marker it is a run that was not finished")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError, match=name.replace(".", r"\.")): run(SMALL, tmp_path)
    failed = sweep([SMALL], tmp_path, jobs=1, progress=False)
    assert name in failed[SMALL.name]
    with pytest.raises(ValueError, match=name.replace(".", r"\.")): collect(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_without_its_done_marker_a_run_does_not_begin_anew(tmp_path):
    folder = run(SMALL, tmp_path)
    expected = contents(folder)
    remove(folder / "done.json")
    with pytest.raises(StoreError, match="checkpoint.pt is missing"): run(SMALL, tmp_path)
    assert contents(folder) == expected


# Full disk

def test_a_full_disk_fails_by_name_and_the_same_call_goes_on_when_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "BLOCK", 15)
    expected = contents(run(SMALL, tmp_path / "undisturbed"))
    fsync, full = os.fsync, iter(range(3))

    def no_room(descriptor):
        if next(full, None) is None: raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(descriptor)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_room)
        failed = sweep([SMALL], tmp_path / "full", jobs=1, progress=False)
    assert "No space left" in failed[SMALL.name]
    assert contents(run(SMALL, tmp_path / "full")) == expected


def test_files_may_not_grow(tmp_path):
    "The system itself refuses to write more than 20 kB into a file: the checkpoint does not fit."
    code = f"""
import resource, signal, sys
from neuralode_resnet.experiments import from_toml, sweep
experiment = from_toml(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
print(sweep([experiment], sys.argv[2], jobs=1, progress=False))
"""
    done = subprocess.run([sys.executable, "-c", code, to_toml(SMALL), str(tmp_path / "limited")], capture_output=True, text=True)
    assert done.returncode == 0 and SMALL.name in done.stdout, done
    folder = tmp_path / "limited" / SMALL.name
    assert "checkpoint.pt" not in list_visible(folder) and "done.json" not in list_visible(folder)
    assert contents(run(SMALL, tmp_path / "limited")) == contents(run(SMALL, tmp_path / "free"))


# Two processes, another version

def test_a_run_belongs_to_one_process(tmp_path):
    store = open_store(tmp_path / "store")
    with claimed(store / SMALL.name):
        with pytest.raises(RunIsTaken, match="another process"): run(SMALL, store)
        assert status(store).state.tolist() == ["running"]
    assert status(store).state.tolist() == ["interrupted"]


@pytest.mark.slow
def test_two_sweeps_share_a_store(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(LONGER)
    both = [start_sweep(file, tmp_path / "shared", 1) for _ in range(2)]
    for process in both: process.communicate(timeout=600)
    assert [process.returncode for process in both] == [0, 0]
    sweep(expand(read_toml(file)), tmp_path / "alone", jobs=1, progress=False)
    assert contents_of_store(tmp_path / "shared") == contents_of_store(tmp_path / "alone")


@pytest.mark.parametrize("what", ["format", "version", "torch"])
def test_another_version_does_not_go_on_with_a_run(interrupted, what):
    file = interrupted / "environment.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, what: "0.0.0"}))
    before = {path.name: path.read_bytes() for path in interrupted.iterdir()}
    with pytest.raises(StoreError, match=f"{what} 0.0.0"): run(SMALL, interrupted.parent)
    assert {path.name: path.read_bytes() for path in interrupted.iterdir()} == before


def test_a_finished_run_of_another_version_stays_and_says_so(tmp_path, monkeypatch):
    folder = run(SMALL, tmp_path)
    monkeypatch.setattr(run_store.neuralode_resnet, "__version__", "9.9.9")
    assert run(SMALL, tmp_path) == folder
    assert set(collect(tmp_path).version) == {json.loads((folder / "environment.json").read_text())["version"]} != {"9.9.9"}


def exchange(first, second):
    aside = first.with_name("aside")
    for before, after in ((first, aside), (second, first), (aside, second)): before.rename(after)


def test_exchanged_runs_are_named_and_give_no_rows(tmp_path):
    other = Experiment(**{**SMALL.to_dict(), "lr": 1e-4})
    folders = [run(experiment, tmp_path) for experiment in (SMALL, other)]
    exchange(*folders)
    for experiment in (SMALL, other):
        with pytest.raises(StoreError, match="exchanged or copied"): run(experiment, tmp_path)
    assert set(sweep([SMALL, other], tmp_path, jobs=1, progress=False)) == {SMALL.name, other.name}
    with pytest.raises(ValueError, match="no finished run; .*exchanged or copied"): collect(tmp_path)
    exchange(*folders)
    assert len(collect(tmp_path)) == 2 * 2 * 3


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"sha256": 3}', '{"reason": [], "iteration": {}}', "{" * 5000])
@pytest.mark.parametrize("name", ["done.json", "progress.json", "failed.json", "environment.json"])
def test_an_odd_note_of_one_run_leaves_the_others_readable(tmp_path, name, text):
    run(SMALL, tmp_path)
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / name).write_text(text)
    assert len(status(tmp_path)) == 2
    frame = collect(tmp_path)
    assert set(frame.run) == {SMALL.name}
    assert list(frame.attrs["damaged"]) == (["odd"] if name == "done.json" else [])


def test_a_crafted_marker_reads_nothing_outside_of_its_folder(tmp_path):
    folder = run(SMALL, tmp_path)
    marker = json.loads((folder / "done.json").read_text())
    marker["sha256"]["../store.toml"] = "0"
    (folder / "done.json").write_text(json.dumps(marker))
    with pytest.raises(StoreError, match="done.json is damaged .it is not what the run wrote"): run(SMALL, tmp_path)
    del marker["own"]  # as an earlier version wrote it
    (folder / "done.json").write_text(json.dumps(marker))
    with pytest.raises(StoreError, match="missing or not what the run wrote"): run(SMALL, tmp_path)


def test_what_a_killed_write_has_left_is_swept_and_nothing_else(interrupted):
    for name in (".model.pt.77", ".checkpoint.pt.78", ".diary.79", "notes.txt"): (interrupted / name).touch()
    run(SMALL, interrupted.parent)
    left = {path.name for path in interrupted.iterdir()}
    assert not {".model.pt.77", ".checkpoint.pt.78"} & left and {".diary.79", "notes.txt"} <= left


def test_status_of_ten_thousand_runs(tmp_path, capsys):
    store = open_store(tmp_path / "store")
    for i in range(10_000):
        (store / f"run{i}").mkdir()
        if i % 100: (store / f"run{i}" / "done.json").touch()
    start = time.perf_counter()
    states = status(store).state.value_counts().to_dict()
    with capsys.disabled(): print(f" [status of 10,000 runs: {time.perf_counter() - start:.2f} s, goal 2 s]", end="")
    assert states == {"done": 9900, "interrupted": 100}
