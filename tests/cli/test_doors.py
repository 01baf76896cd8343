"""Help and typos are answered without PyTorch; an exit status means what the table of exit statuses says."""
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from neuralode_resnet.cli.main import main
from neuralode_resnet.cli.options import EXIT_STATUSES
from neuralode_resnet.cli.sweeps import _draw

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ["demo", "audit", "train", "swap", "sweep", "status", "collect", "reproduce"]
TRAIN = ["train", "sphere2", "--solver", "euler@1/4", "--out", "new"]
EMPTY = "empty.toml"
QUICK = {  # words -> a part of what is said
    ("--help",): "Exit status",
    ("--version",): "neuralode-resnet",
    ("trian",): "train",
    ("train", "--slver", "euler@1/4"): "--solver",
    ("train",): "Missing: DATA, --out",
    ("reproduce",): "Missing: TARGET, --out",
    ("train", "sphre2", "--solver", "euler@1/4", "--out", "new"): "nearest: 'sphere2'",
    ("train", "sphere2", "--solver", "eulr@1/4", "--out", "new"): "did you mean euler",
    ("train", "sphere2", "--solver", "euler", "--out", "new"): "needs an accuracy",
    ("train", "sphere2", "--solver", "euler@1/x", "--out", "new"): "cannot read the accuracy",
    ("train", "sphere2", "--random-solver", "eulr@1/4", "--solver", "rk4@1/4", "--out", "new"): "did you mean euler",
    ("train", "sphere2", "--scheme", "recomended", "--out", "new"): "did you mean 'recommended'",
    ("train", "sphere2", "--out", "new"): "name the training solver",
    (*TRAIN, "--adapt", "papr"): "--adapt must be",
    (*TRAIN, "--gradient", "ajoint"): "gradient must be one of",
    (*TRAIN, "--precision", "fp31"): "precision must be one of",
    (*TRAIN, "--iterations", "many"): "--iterations",
    ("swap", "nowhere"): "there is nothing",
    ("swap", ".", "--solver", "eulr@1/4"): "did you mean euler",
    ("audit", "mymodel.py:make"): "did you mean mymodel:make?",
    ("audit", "nowhere"): "no model nowhere",
    ("audit", "nowhere", "--data", "sphre2"): "nearest: 'sphere2'",
    ("audit", "nowhere", "--compare", "clas"): "class, accuracy, value",
    ("sweep", "nowhere.toml", "--out", "new"): "nowhere.toml",
    ("sweep", EMPTY, "--out", "new"): "data; train_solver or scheme; test_solvers, or test_methods and test_factors",
    ("status", "nowhere"): "there is nothing",
    ("collect", "nowhere", "--out", "new.csv"): "there is nothing",
    ("reproduce", "figre-4", "--out", "new"): "did you mean 'figure-4'",
    ("reproduce", "figure-1", "--out", "new"): "nbs/paper/figure_1.ipynb",
    **{(command, "--help"): "Example" for command in COMMANDS},
}
SCRIPT = """
import sys
sys.argv[0] = "neuralode-resnet"
from neuralode_resnet.cli.main import main
try:
    main()
except SystemExit as stopped:
    heavy = [name for name in ("torch", "numpy", "pandas", "matplotlib", "scipy") if name in sys.modules]
    print("status", stopped.code or 0, "heavy", *heavy)
"""


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_help_and_typos_are_answered_without_pytorch(words, tmp_path):
    (tmp_path / EMPTY).touch()
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, cwd=tmp_path,
                          env={"PATH": "", "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"})
    said = " ".join((done.stdout + done.stderr).replace("│", " ").split())
    status = 0 if words[-1] in ("--help", "--version") else 2
    assert f"status {status} heavy" in said and "Traceback" not in said, said
    assert done.stdout.splitlines()[-1].endswith("heavy"), done.stdout.splitlines()[-1]
    assert QUICK[words] in said
    assert not (tmp_path / "new").exists()


MODELS = """
import torch
from torchdiffeq import odeint
class Model(torch.nn.Module):
    def __init__(self, strength):
        super().__init__()
        self.strength = strength
    def forward(self, x):
        field = lambda t, z: self.strength * torch.sin(z.flip(1))
        return odeint(field, x, torch.tensor([0., 1.]), method="euler")[-1]
def weak():
    return Model(.1)
def strong():
    return Model(9.)
def broken():
    raise RuntimeError("no weights")
def many(n=400):
    return dict(x=torch.randn(n, 2, generator=torch.Generator().manual_seed(0)))
def few():
    return dict(x=many()["x"][:10])
"""


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    "Runs the console script in an empty folder: its exit status, and what it said on both streams."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_door.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["neuralode-resnet", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said, complaint = capsys.readouterr()
        return stopped.value.code or 0, said, complaint
    yield run
    sys.modules.pop("users_door", None)


def audit_of(model, data="many"):
    return "audit", f"users_door:{model}", "--data", f"users_door:{data}", "--compare", "class"


@pytest.mark.parametrize("status, words", [(0, audit_of("weak")), (1, audit_of("strong")), (2, audit_of("nothing")),
                                           (3, audit_of("broken")), (4, audit_of("weak", "few"))])
def test_the_status_of_an_audit_is_its_verdict(status, words, call):
    code, said, complaint = call(*words)
    assert code == status, said + complaint
    assert status in EXIT_STATUSES


def test_a_stopped_training_ends_with_130(call, monkeypatch):
    from neuralode_resnet import experiments

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "run_into", stopped)
    code, _, complaint = call(*TRAIN, "--iterations", 5)
    assert code == 130 and 130 in EXIT_STATUSES
    assert "--resume" in complaint


def test_a_run_that_failed_ends_a_sweep_with_1(call, tmp_path):
    (tmp_path / "one.toml").write_text('data = "sphere2"\ntrain_solver = "euler@1/2"\ntest_solvers = ["rk4@1/2"]\n'
                                       "lr = 1e30\nseeds = [0]\niterations = 10\nchannels = 4\n")
    code, _, complaint = call("sweep", "one.toml", "--out", "store", "--jobs", 1)
    assert code == 1 and "failed" in complaint


def test_advice_that_only_python_can_follow_is_said_to_be_so(call, tmp_path):
    (tmp_path / "users_loop.py").write_text(
        "import torch\nclass Loop(torch.nn.Module):\n    def forward(self, x):\n        return x + torch.sin(x)\n"
        "def data():\n    return dict(x=torch.randn(400, 2))\n")
    code, _, complaint = call("audit", "users_loop:Loop", "--data", "users_loop:data", "--compare", "class")
    assert code == 2
    assert "refine=1" in complaint and "refine= exists only in Python" in complaint


def test_a_reproduced_figure_is_a_picture_of_its_tables(tmp_path):
    files = [ROOT / "results" / f"figure_4_{method}.csv" for method in ("euler", "dopri5")]
    assert _draw(files, tmp_path / "figure_4.png")
    assert (tmp_path / "figure_4.png").read_bytes().startswith(b"\x89PNG")
    assert not _draw([tmp_path / "missing.csv"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_figure_of_models_that_have_not_learnt_is_drawn_too(tmp_path):
    table = pd.read_csv(ROOT / "results" / "figure_4_euler.csv").assign(accuracy=.5)
    table.to_csv(tmp_path / "quick.csv", index=False)
    _draw([tmp_path / "quick.csv"], tmp_path / "quick.png")


def test_status_names_what_a_run_trains_and_how_long_it_took(call, tmp_path):
    assert call(*TRAIN, "--iterations", 5, "--members", 2)[0] == 0
    code, said, _ = call("status", "new")
    assert code == 0
    assert said.startswith("1 done") and "sphere2, euler@1/4, 2 seeds" in said
    assert " s" in said.splitlines()[-1]
