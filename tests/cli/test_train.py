"""The command line trains, stops, goes on, swaps and audits under every training scheme, and reads older folders."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from neuralode_resnet.cli.main import main
from neuralode_resnet.datasets import load
from neuralode_resnet.experiments import read_experiment, reproductions, status
from neuralode_resnet.files import read_toml
from neuralode_resnet.models import NeuralODE, load_model, save_model
from neuralode_resnet.training import fit
from neuralode_resnet.valid_training import RECOMMENDED

SCHEMES = {
    "a fixed step": ["--solver", "rk4@1/4"],
    "a tolerance": ["--solver", "dopri5@1e-2"],
    "a drawn depth": ["--solver", "rk4@1/4", "--depth", "2-6"],
    "a drawn depth, small ones more often": ["--solver", "rk4@1/4", "--depth", "2-6", "--log-depth"],
    "a drawn method": ["--solver", "euler@1/4", "--random-solver", "euler@1/4", "--random-solver", "rk4@1/2"],
    "a drawn tolerance": ["--solver", "dopri5@1e-2", "--random-tol", "1e-3-1e-1"],
    "a drawn end": ["--solver", "euler@1/4", "--random-end", "0.5"],
    "a penalty": ["--solver", "euler@1/4", "--penalty", "1"],
    "coarse to fine": ["--solver", "euler@1/2", "--coarse-to-fine", "2-8"],
    "Algorithm 2": ["--solver", "euler@1/4", "--adapt", "paper", "--threshold", "0.2", "--check-every", "4"],
    "Algorithm 3": ["--solver", "dopri5@1e-3", "--adapt", "paper", "--check-every", "4"],
    "a controller": ["--solver", "midpoint@1/4", "--adapt", "controller", "--target", "0.02", "--check-every", "4"],
    "a controlled depth": ["--solver", "midpoint@1/4", "--depth", "2-6", "--adapt", "controller", "--check-every", "4"],
    "a controlled tolerance": ["--solver", "dopri5@1e-3", "--adapt", "controller", "--check-every", "4"],
    "the recommended one": ["--scheme", "recommended", "--nfe", "8"],
    "a controlled one": ["--scheme", "midpoint-controller-and-depth-1-percent", "--nfe", "8", "--check-every", "4"],
    "the paper's": ["--scheme", "paper", "--nfe", "8"],
}
FEW = ["a tolerance", "a drawn end", "Algorithm 2", "the recommended one"]
SHORT = ["--iterations", "12", "--channels", "4", "--members", "2", "--device", "cpu"]


@pytest.fixture
def call(monkeypatch, capsys):
    "Runs the console script: its exit status, and what it said on both streams."
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["neuralode-resnet", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said, complaint = capsys.readouterr()
        return stopped.value.code or 0, said, complaint
    return run


def contents(folder):
    "What a run folder says, bit for bit, times and machine left out."
    names = [path.name for path in folder.iterdir() if path.suffix == ".csv" or path.name == "experiment.toml"]
    weights = load_model(folder / "model.pt").state_dict()
    return {name: (folder / name).read_bytes() for name in names}, {name: w.numpy().tobytes() for name, w in weights.items()}


def all_of(names):
    "A test for each scheme; in the quick suite for these names."
    return [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in SCHEMES]


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_is_trained_resumed_swapped_and_collected(name, call, tmp_path):
    run = tmp_path / "run"
    words = ["train", "sphere2", *SCHEMES[name], *SHORT, "--out", run]
    code, said, complaint = call(*words)
    assert code == 0, complaint
    assert "trained with" in said
    assert call(*words)[0] == 2
    before = contents(run)
    assert call(*words, "--resume")[0] == 0
    assert contents(run) == before
    code, said, complaint = call("swap", run, "--solver", "rk4@1/8")
    assert code == 0, complaint
    assert said.count("rk4@1/8") >= 2
    assert call("status", run)[1].splitlines()[0] == "1 done"
    assert call("collect", run, "--out", tmp_path / "table.csv")[0] == 0
    assert set(pd.read_csv(tmp_path / "table.csv").seed) == {0, 1}


@pytest.mark.parametrize("name", all_of(FEW))
def test_every_scheme_is_audited(name, call, tmp_path):
    call("train", "sphere2", *SCHEMES[name], *SHORT, "--out", tmp_path / "run")
    code, said, complaint = call("audit", tmp_path / "run", "--member", 1)
    assert code in (0, 1, 4) and "predictions" in said, complaint


@pytest.mark.parametrize("name", all_of(FEW))
def test_a_sweep_of_the_same_experiment_gives_the_same_bits(name, call, tmp_path):
    call("train", "sphere2", *SCHEMES[name], *SHORT, "--out", tmp_path / "run")
    file = tmp_path / "run/experiment.toml"
    assert call("sweep", file, "--out", tmp_path / "store", "--jobs", 1)[0] == 0
    [folder] = [path for path in (tmp_path / "store").iterdir() if path.is_dir()]
    assert folder.name == read_experiment(tmp_path / "run").name
    assert contents(folder) == contents(tmp_path / "run")


# Stopped

LONG = ["train", "sphere2", "--scheme", "midpoint-controller-and-depth-1-percent", "--iterations", "2600", "--channels", "4", "--members", "2", "--lr",
        "1e-3", "--device", "cpu"]


def start(folder, *more):
    "The command in another process."
    code = "from neuralode_resnet.cli.main import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *LONG, "--out", str(folder), *more], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(path, process):
    "Until the file is there; the process must still run."
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(folder)
    _, complaint = process.communicate()
    assert process.returncode == 0, complaint
    return contents(folder)


@pytest.mark.parametrize("signal_, files", [
    (signal.SIGKILL, ["metrics-01000.csv", "metrics-02000.csv"]),
    (signal.SIGTERM, ["metrics-01000.csv"]),
    pytest.param(signal.SIGINT, ["metrics-02000.csv"], marks=pytest.mark.slow),  # the scoreboard of faults tries it, too
], ids=["killed twice", "terminated", "interrupted"])
def test_a_stopped_training_with_controller_and_drawn_depth_goes_on_to_the_same_bits(signal_, files, undisturbed, tmp_path):
    folder = tmp_path / "run"
    for file in files:
        process = start(folder, "--resume")
        wait_for(folder / file, process)
        process.send_signal(signal_)
        _, complaint = process.communicate()
        assert process.returncode == (-signal.SIGKILL if signal_ == signal.SIGKILL else 130)
        assert (signal_ == signal.SIGKILL) != ("the same command goes on, with --resume" in complaint)
        assert "Traceback" not in complaint
        assert status(folder).state.tolist() == ["interrupted"]
    process = start(folder, "--resume")
    process.communicate()
    assert process.returncode == 0
    assert contents(folder) == undisturbed


def test_a_running_training_is_left_alone(call, tmp_path):
    process = start(tmp_path / "run")
    wait_for(tmp_path / "run/experiment.toml", process)
    code, _, complaint = call(*LONG, "--resume", "--out", tmp_path / "run")
    assert code == 2 and "another process" in complaint
    process.kill()
    process.communicate()


# Folders of other makers

@pytest.fixture(params=[1, 2], ids=["one model", "an ensemble"])
def older(request, tmp_path):
    "A folder as `train` of an earlier version wrote it."
    folder, members = tmp_path / "older", request.param
    data = load("sphere2", seed=3)
    seeds = list(range(5, 5 + members))
    model = NeuralODE.for_data(data, "euler@1/4", channels=8, seed=seeds if members > 1 else 5)
    history = fit(model, data, 20, 128, 1e-3, seed=seeds, progress=False)
    folder.mkdir()
    settings = dict(data="sphere2", data_seed=3, solver="euler@1/4", iterations=20, batch_size=128, lr=1e-3, channels=8,
                    gradient="backprop", seed=5, members=members, root=None, size=None, precision="fp32")
    (folder / "run.json").write_text(json.dumps(settings, indent=1) + "\n")
    history.to_csv(folder / "history.csv", index=False)
    save_model(model, folder / "model.pt")
    (folder / "swap.csv").write_text("train_solver,test_solver\n")
    return folder


def test_a_folder_of_an_earlier_version_is_swapped_and_audited_and_never_changed(older, call):
    before = {path.name: path.read_bytes() for path in older.iterdir()}
    code, said, complaint = call("swap", older)
    assert code == 0 and "rk4@1/4" in said, complaint
    code, said, complaint = call("audit", older)
    assert code in (0, 1, 4) and "predictions" in said, complaint
    assert call("status", older)[1].splitlines()[0] == "1 done"
    words = ["train", "sphere2", "--solver", "euler@1/4", "--iterations", 20, "--out", older]
    assert "earlier version" in call(*words, "--resume")[2]
    assert "--force" in call(*words)[2]
    after = {path.name: path.read_bytes() for path in older.iterdir() if path.name != ".lock"}
    assert after == before


def test_an_older_experiment_has_the_seed_of_its_data(older):
    experiment = read_experiment(older)
    assert experiment.data_seed == 3
    assert experiment.seeds[0] == 5
    assert experiment.scheme.draw is None


def test_the_folder_of_a_reproduction_is_swapped_audited_and_collected(call, tmp_path, monkeypatch):
    tiny = dict(data="sphere2", train_solver=["euler@1/2", "euler@1/4"], test_solvers=["rk4@1/4"], seeds=[0, 1], iterations=10,
                channels=4)
    monkeypatch.setitem(reproductions.GRIDS, "tiny", tiny)
    monkeypatch.setattr("neuralode_resnet.cli.sweeps._GRID_NAMES", ("tiny",))
    code, said, complaint = call("reproduce", "tiny", "--out", tmp_path, "--jobs", 1)
    assert code == 0 and "tiny.csv" in said and "tiny.png" in said, complaint
    assert Image.open(tmp_path / "tiny.png").size[0] > 600
    code, said, complaint = call("swap", tmp_path)
    assert code == 0 and said.splitlines()[0].split()[0] == "run", complaint
    code, said, _ = call("audit", tmp_path)
    assert code in (0, 1, 4) and said.count("# sphere2_euler") == 2
    assert call("status", tmp_path)[1].splitlines()[0] == "2 done"
    assert call("collect", tmp_path, "--out", tmp_path / "table.csv")[0] == 0


def test_a_damaged_model_is_refused_by_name(call, tmp_path):
    run = tmp_path / "run"
    call("train", "sphere2", "--solver", "euler@1/2", *SHORT, "--out", run)
    raw = (run / "model.pt").read_bytes()
    (run / "model.pt").write_bytes(raw[:2000] + bytes([raw[2000] ^ 4]) + raw[2001:])
    for words in (["swap", run], ["audit", run]):
        code, _, complaint = call(*words)
        assert code == 2 and "model.pt" in complaint and complaint.count("\n") == 1


def test_force_begins_anew_and_leaves_what_is_not_ours(call, tmp_path):
    run = tmp_path / "run"
    words = ["train", "sphere2", *SHORT, "--out", run]
    call(*words, "--scheme", "midpoint-controller-and-depth-1-percent")
    (run / "thesis.txt").write_text("mine")
    code, _, complaint = call(*words, "--solver", "euler@1/2", "--force")
    assert code == 0, complaint
    assert (run / "thesis.txt").read_text() == "mine"
    assert not (run / "adaptation.csv").exists()
    assert "draw" not in read_toml(run / "experiment.toml")
    (run / "thesis.txt").write_text("mine, changed")  # is no part of the result
    assert call("swap", run)[0] == 0


def test_a_refused_force_leaves_the_run_that_is_there(call, tmp_path):
    run = tmp_path / "run"
    call("train", "sphere2", "--solver", "euler@1/2", *SHORT, "--out", run)
    before = contents(run)
    code, _, complaint = call("train", "sphere2", "--solver", "euler@1/2", "--batch-size", 5000, "--force", "--out", run)
    assert code == 2 and "incomplete batches" in complaint
    assert contents(run) == before


def test_the_recommended_scheme_is_what_its_name_trains(call, tmp_path):
    call("train", "sphere2", "--scheme", "recommended", *SHORT, "--out", tmp_path / "run")
    assert read_experiment(tmp_path / "run").scheme == RECOMMENDED


def test_the_help_imports_nothing_heavy():
    code = ("import sys; from typer.testing import CliRunner; from neuralode_resnet.cli import app\n"
            "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0\n"
            "print([name for name in ('torch', 'pandas', 'numpy', 'matplotlib') if name in sys.modules])")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_a_root_is_kept_as_a_full_path(call, tmp_path, monkeypatch):
    from PIL import Image
    for color in ("blue", "red"):
        (tmp_path / "images" / color).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (4, 4), color).save(tmp_path / "images" / color / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    words = ["train", "image_folder", "--root", "images", "--solver", "euler@1/2", "--batch-size", 4, "--iterations", 2]
    code, _, complaint = call(*words, "--channels", 4, "--out", "run")
    assert code == 0, complaint
    assert Path(read_experiment(tmp_path / "run").root) == tmp_path / "images"
    monkeypatch.chdir("/")
    assert call("swap", tmp_path / "run")[0] == 0
