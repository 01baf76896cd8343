"""Images, precision and memory where a notebook would say it badly: other processes, files of before, every way back."""
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from neuralode_resnet.cli import main as cli
from neuralode_resnet.datasets import Data, as_states, load
from neuralode_resnet.experiments import Experiment, read_experiment, run, run_into
from neuralode_resnet.models import (
    NeuralODE, check_precision, compile_field, load_model, member, save_model, solve_memory,
)
from neuralode_resnet.models.memory import kept_bytes
from neuralode_resnet.solver_swap import Validity, table
from neuralode_resnet.solvers import Solver
from neuralode_resnet.training import TrainingError, fit, save_run


def images(n=8, state=(3, 8, 8), n_classes=2):
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, *state), dtype=torch.uint8, generator=draw)
    y = torch.arange(n) % n_classes
    return Data("noise", x, y, x, y, n_classes)


def folder(root, n=6, size=(5, 4)):
    for i in range(n):
        for color in ("blue", "red"):
            (root / color).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, color).save(root / color / f"{i}.png")
    return root


def has_bf16():
    try:
        return bool(check_precision("bf16"))
    except ValueError:
        return False


def test_importing_everything_leaves_torchvision_alone():
    code = ("import pkgutil, sys, neuralode_resnet as p\n"
            "for m in pkgutil.iter_modules(p.__path__): __import__('neuralode_resnet.' + m.name)\n"
            "assert 'torchvision' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_processes_decode_at_once_into_one_whole_cache(tmp_path):
    folder(tmp_path, n=40)
    code = "import sys; from neuralode_resnet.datasets import load; print(load('image_folder', root=sys.argv[1]).x_train.sum().item())"
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate()[0] for process in both}
    assert len(said) == 1 and all(process.returncode == 0 for process in both)
    assert [path.suffix for path in tmp_path.iterdir() if path.is_file()] == [".pt"]
    assert said == {f"{load('image_folder', root=tmp_path).x_train.sum().item()}\n"}


def test_a_cache_may_lie_elsewhere_or_nowhere(tmp_path):
    root = folder(tmp_path / "images")
    data = load("image_folder", root=root, cache=tmp_path / "elsewhere")
    again = load("image_folder", root=root, cache=False)
    assert not [*root.glob("decoded-*")] and len([*(tmp_path / "elsewhere").iterdir()]) == 1
    assert torch.equal(data.x_train, again.x_train) and torch.equal(data.y_test, again.y_test)


def test_train_and_test_folders_of_one_root_have_caches_of_their_own(tmp_path):
    folder(tmp_path / "train", n=3), folder(tmp_path / "test", n=2)
    data = load("image_folder", root=tmp_path, size=2)
    assert data.x_train.shape == (6, 3, 2, 2) and data.x_test.shape == (4, 3, 2, 2) and len([*tmp_path.glob("decoded-*")]) == 2


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("solver", ["euler@1/8", "dopri5@1e-2"])
def test_bf16_gives_the_gradient_of_fp32_within_its_rounding(gradient, solver):
    data, grads = images(), {}
    x = data.x_train / 255
    for precision in ("fp32", "bf16"):
        model = NeuralODE.for_data(data, solver, channels=8, gradient=gradient, precision=precision)
        logits = model(x)
        logits.logsumexp(-1).sum().backward()
        assert logits.dtype == torch.float32 and all(p.grad.dtype == torch.float32 for p in model.parameters())
        grads[precision] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert 0 < (grads["bf16"] - grads["fp32"]).norm() < .1 * grads["fp32"].norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_members_of_an_image_ensemble_are_the_models_alone(precision):
    data = images()
    ensemble = NeuralODE.for_data(data, "euler@1/4", channels=8, seed=[3, 4], precision=precision)
    x = data.x_train / 255
    alone = NeuralODE.for_data(data, "euler@1/4", channels=8, seed=4, precision=precision)
    assert member(ensemble, 1).block.field.precision == precision
    assert torch.allclose(ensemble(ensemble.for_members(x))[1], alone(x), atol=1e-5)


def test_a_file_keeps_the_precision_and_one_of_before_means_fp32(tmp_path):
    model = NeuralODE.for_data(images(), "euler@1/4", channels=8, precision="bf16")
    save_model(model, tmp_path / "model.pt")
    assert load_model(tmp_path / "model.pt").block.field.precision == "bf16"
    del model.config["precision"]
    save_model(model, tmp_path / "before.pt")
    assert load_model(tmp_path / "before.pt").block.field.precision == "fp32"


def test_compiled_field_keeps_precision_and_gradient():
    data = images()
    plain, compiled = (NeuralODE.for_data(data, "euler@1/4", channels=8, precision="bf16") for _ in range(2))
    x = data.x_train / 255
    assert compile_field(compiled, x, backend="aot_eager")
    for model in (plain, compiled):
        model(x).square().sum().backward()
    assert all(torch.allclose(a.grad, b.grad, rtol=.05, atol=.05 * a.grad.abs().max())
               for a, b in zip(plain.parameters(), compiled.parameters()))


@pytest.mark.skipif(not has_bf16(), reason="no bf16 on this processor")
def test_training_in_bf16_keeps_fp32_weights_and_learns():
    data = images(64)
    model = NeuralODE.for_data(data, "euler@1/2", channels=8, precision="bf16")
    history = fit(model, data, iterations=60, batch_size=32, lr=1e-2, progress=False)
    assert history.loss.iloc[-1] < .5 * history.loss.iloc[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_out_of_memory_says_what_would_need_less(gradient, monkeypatch):
    data = images()
    model = NeuralODE.for_data(data, "euler@1/16", channels=8, gradient=gradient)

    def full(*args, **kwargs): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    monkeypatch.setattr("neuralode_resnet.training.cross_entropy", full)
    with pytest.raises(TrainingError) as error:
        fit(model, data, iterations=2, batch_size=4, progress=False)
    assert "a smaller batch than 4" in str(error.value) and "GB" in str(error.value)
    assert ("--gradient checkpoint" in str(error.value)) == (gradient == "backprop")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_on_a_gpu_precisions_agree_and_the_estimate_is_most_of_what_is_allocated(precision):
    data = SimpleNamespace(x_train=torch.rand(64, 3, 32, 32), n_classes=10)
    x = data.x_train.cuda()
    exact = NeuralODE.for_data(data, "euler@1/16", channels=64).cuda()
    expected = exact(x).detach()
    model = NeuralODE.for_data(data, "euler@1/16", channels=64, precision=precision).cuda()
    check_precision(precision, "cuda")
    torch.cuda.reset_peak_memory_stats()
    logits = model(x)
    logits.sum().backward()
    assert (logits - expected).norm() < dict(fp32=1e-5, tf32=1e-2, bf16=1e-1)[precision] * expected.norm()
    assert .5 < solve_memory(model.block, x[:1], 64) / torch.cuda.max_memory_allocated() < 1.2


def test_what_is_kept_does_not_depend_on_the_weights_being_known_twice():
    layer = torch.nn.Conv2d(3, 8, 3)
    x = torch.rand(2, 3, 8, 8)
    assert kept_bytes(lambda: layer(x), [*layer.parameters()] * 2) == x.numel() * 4


# Layout

@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["alone", "ensemble"])
def test_convolutions_see_channels_last_from_the_first_step_to_the_last(gradient, seed):
    data, seen = images(state=(3, 6, 6)), []
    model = NeuralODE.for_data(data, "euler@1/4", channels=8, gradient=gradient, seed=seed)
    template = model.block.field if model.members is None else model.block.field.template[0]
    for layer in template.net[2::2]:  # what reaches the hidden layers; a state has few channels
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last)))
    fit(model, data, iterations=2, batch_size=4, progress=False, seed=[0, 1] if model.members else 0)
    assert all(seen) and len(seen) >= 2 * 2 * 4 * (model.members or 1)
    weights = [p for p in model.block.field.parameters() if p.shape[-2:] == (3, 3)]
    assert all((w if w.dim() == 4 else w[1]).is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert as_states(data.x_train).is_contiguous(memory_format=torch.channels_last)


def test_a_model_read_from_its_file_keeps_the_layout(tmp_path):
    save_model(NeuralODE.for_data(images(), "euler@1/4", channels=8), tmp_path / "model.pt")
    convolutions = [m for m in load_model(tmp_path / "model.pt").modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions) and len(convolutions) == 3


# The command line and experiments

def command(monkeypatch, capsys, *words):
    "Exit status of the console script, and what it said on both streams."
    monkeypatch.setattr(sys, "argv", ["neuralode-resnet", *map(str, words)])
    with pytest.raises(SystemExit) as stopped: cli.main()
    return stopped.value.code or 0, *capsys.readouterr()


def idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes())


def digits(root, n=20):
    draw = np.random.default_rng(0)
    for split in ("train", "t10k"):
        idx(root / "MNIST/raw" / f"{split}-images-idx3-ubyte", draw.integers(0, 255, (n, 28, 28)))
        idx(root / "MNIST/raw" / f"{split}-labels-idx1-ubyte", np.arange(n) % 10)
    return root


def wrong_folder(case, root):
    "A folder of images with one fault."
    if case == "nowhere": return root
    if case == "one class": shutil.rmtree(folder(root) / "red")
    elif case == "empty": root.mkdir()
    elif case == "an empty class": (folder(root) / "green").mkdir()
    elif case == "unreadable": (folder(root) / "red/3.png").write_bytes((root / "red/3.png").read_bytes()[:50])
    elif case == "not RGB": Image.new("RGBA", (5, 4)).save(folder(root) / "blue/2.png")
    elif case == "mixed sizes": Image.new("RGB", (7, 4)).save(folder(root) / "red/4.png")
    return root


FOLDERS = {"nowhere": "there is no folder", "empty": "holds no folders with images", "one class": "one class only, blue",
           "an empty class": "classes green", "unreadable": "red/3.png cannot be read", "not RGB": "blue/2.png is not RGB but RGBA",
           "mixed sizes": "red/4.png is 7 × 4"}


def ask(way, root, tmp_path, monkeypatch, capsys, data="image_folder", **settings):
    "Status and message of a training that is asked for by `train`, by `sweep`, or in Python."
    settings = dict(train_solver="euler@1/2", iterations=2, batch_size=4, channels=4) | settings
    if way == "sweep":
        tables = json.dumps(settings | dict(data=data, root=str(root), test_solvers=["rk4@1/2"], seeds=[0]))
        lines = [f"{key} = {json.dumps(value)}" for key, value in json.loads(tables).items() if key != "device"]
        (tmp_path / "asked.toml").write_text("\n".join(lines))
        words = ["sweep", tmp_path / "asked.toml", "--jobs", 1, *(["--device", settings["device"]] if "device" in settings else [])]
    else:
        settings["solver"] = settings.pop("train_solver")
        words = ["train", data, "--root", root, *(w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", v))]
    return command(monkeypatch, capsys, *words, "--out", tmp_path / "out")


def check_refused(status, said, complaint, tmp_path, words):
    "One line on the error stream, and nothing begun."
    assert status == 2 and words in complaint and complaint.startswith("neuralode-resnet: ") and complaint.count("\n") == 1
    assert "Traceback" not in said + complaint and not [*tmp_path.glob("out/*/*")] and not (tmp_path / "out/experiment.toml").exists()


@pytest.mark.parametrize("way", ["train", "sweep"])
@pytest.mark.parametrize("case", FOLDERS)
def test_a_wrong_folder_is_one_message(case, way, tmp_path, monkeypatch, capsys):
    root = wrong_folder(case, tmp_path / "images")
    check_refused(*ask(way, root, tmp_path, monkeypatch, capsys), tmp_path, FOLDERS[case])
    assert not [*root.glob("decoded-*")]
    with pytest.raises(ValueError, match=FOLDERS[case]): load("image_folder", root=root)


@pytest.mark.parametrize("way", ["train", "sweep"])
@pytest.mark.parametrize("words, settings", {
    "is no whole idx file: 100 bytes": dict(data="mnist"), "no option 'size'": dict(data="mnist", size=4),
    "7 of 7 files are missing": dict(data="cifar10"), "batch_size 64 is larger": dict(batch_size=64),
    "no device 'abacus'": dict(device="abacus"), "no device 'cuda:99'": dict(device="cuda:99"),
    "tf32 needs an NVIDIA GPU": dict(precision="tf32", device="cpu"), "precision must be one of fp32": dict(precision="fp16")}.items())
def test_wrong_settings_are_one_message(words, settings, way, tmp_path, monkeypatch, capsys):
    root = folder(tmp_path / "images")
    if "data" in settings:
        file = (root := digits(tmp_path / "digits")) / "MNIST/raw/train-images-idx3-ubyte"
        file.write_bytes(file.read_bytes()[:100])
    check_refused(*ask(way, root, tmp_path, monkeypatch, capsys, **settings), tmp_path, words)


def no_bf16(monkeypatch): monkeypatch.setattr("neuralode_resnet.models.precision._has", lambda name, kind: False)
def no_room(monkeypatch): monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1))
def no_permission(monkeypatch): monkeypatch.setattr("os.access", lambda path, mode, **_: mode != os.W_OK)


def no_memory(monkeypatch):
    def full(*args, **kwargs): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    monkeypatch.setattr("neuralode_resnet.training.cross_entropy", full)


@pytest.mark.parametrize("way", ["train", "sweep"])
@pytest.mark.parametrize("lacking, words", [(no_bf16, "bf16 needs an NVIDIA GPU"), (no_room, "0 MB free"), (no_permission, "NEURALODE_RESNET_CACHE"),
                                            (no_memory, "--gradient checkpoint, which keeps about")])
def test_what_the_machine_lacks_is_one_message(lacking, words, way, tmp_path, monkeypatch, capsys):
    root = folder(tmp_path / "images")
    lacking(monkeypatch)
    check_refused(*ask(way, root, tmp_path, monkeypatch, capsys, precision="bf16" if lacking is no_bf16 else "fp32"), tmp_path, words)


def test_a_test_that_runs_out_of_memory_says_where_the_model_is(tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    monkeypatch.setattr(table, "verdict_table", full)
    status, _, complaint = ask("train", folder(tmp_path / "images"), tmp_path, monkeypatch, capsys)
    assert status == 2 and "swap FOLDER --device cpu" in complaint and (tmp_path / "out/model.pt").is_file()


def test_a_resumed_training_on_images_ends_with_the_bits_of_an_undisturbed_one(tmp_path, monkeypatch, capsys):
    words = ["train", "image_folder", "--root", folder(tmp_path / "images"), "--size", 3, "--solver", "euler@1/2", "--batch-size", 4, "--channels", 4]
    assert command(monkeypatch, capsys, *words, "--iterations", 6, "--out", tmp_path / "whole")[0] == 0

    def kill(run):
        if run.iteration == 3:
            save_run(run, tmp_path / "cut/checkpoint.pt")
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): run_into(tmp_path / "cut", read_experiment(tmp_path / "whole"), callbacks=[kill])
    refused = command(monkeypatch, capsys, *words, "--iterations", 6, "--precision", "bf16", "--resume", "--out", tmp_path / "cut")
    assert refused[0] == 2 and ("precision = fp32, not bf16" in refused[2] or "bf16 needs" in refused[2])
    assert command(monkeypatch, capsys, *words, "--iterations", 6, "--resume", "--out", tmp_path / "cut")[0] == 0
    weights = [[*load_model(tmp_path / name / "model.pt").parameters()] for name in ("whole", "cut")]
    assert all(map(torch.equal, *weights))


def test_a_run_finds_its_images_from_any_folder(tmp_path, monkeypatch, capsys):
    folder(tmp_path / "images"), (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert ask("train", Path("images"), tmp_path, monkeypatch, capsys, size=3)[0] == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, said, _ = command(monkeypatch, capsys, "swap", tmp_path / "out", "--solver", "rk4@1/4", "--out", tmp_path / "swap")
    assert status == 0 and "rk4@1/4" in said and len(pd.read_csv(tmp_path / "swap/swap.csv")) == 2
    status, said, _ = command(monkeypatch, capsys, "audit", tmp_path / "out")
    assert status in (0, 1, 4) and "predictions change" in said
    status, _, complaint = command(monkeypatch, capsys, "swap", tmp_path / "out", "--precision", "tf32", "--device", "cpu")
    assert status == 2 and "tf32 needs" in complaint


def test_a_difference_that_rounding_makes_is_not_blamed_on_the_solver(monkeypatch):
    data = images()
    model, differs = NeuralODE.for_data(data, "euler@1/2", channels=4, seed=[0, 1], precision="bf16"), dict(flips=8, lost=8, won=0, threshold=.1)
    found = [Validity(Solver.parse("euler@1/2"), Solver.parse("rk4@1/2"), 8, 1., 0., **differs)] * 2
    for verdict in ("rounding", "solver"):
        monkeypatch.setattr(table, "rounded_validity", lambda alone, *rest: SimpleNamespace(verdict=verdict if alone.members is None else None))
        named = [table._judge_row(model, data, i, one) for i, one in enumerate(found)]
        assert named == (["rounding"] * 2 if verdict == "rounding" else ["not valid"] * 2)
    model.block.field.precision = "fp32"
    assert table._judge_row(model, data, 0, found[0]) == "not valid"


ADAPTED = """
data = "image_folder"
root = "images"
size = 3
train_solver = "euler@1/4"
test_solvers = ["euler@1/8", "rk4@1/4"]
seeds = [0, 1]
channels = 4
batch_size = 4
iterations = 6
[adaptation]
kind = "step"
check_every = 2
"""


def test_a_sweep_adapts_the_step_on_images_and_goes_on_with_the_same_bits(tmp_path, monkeypatch, capsys):
    folder(tmp_path / "images", n=10), (tmp_path / "adapted.toml").write_text(ADAPTED)
    monkeypatch.chdir(tmp_path)
    for word in ("say", "do"):
        status, said, _ = command(monkeypatch, capsys, "sweep", "adapted.toml", "--out", "store", "--jobs", 1, *["--dry-run"] * (word == "say"))
        assert status == 0 and "1 runs (2 models)" in said
    (whole,) = (path for path in (tmp_path / "store").iterdir() if path.is_dir())
    checks = pd.read_csv(whole / "adaptation.csv")
    assert checks.iteration.tolist() == [2, 2, 4, 4, 6, 6] and {len(p.read_text()) > 50 for p in whole.glob("*.csv")} == {True}
    assert command(monkeypatch, capsys, "collect", "store", "--out", "table.csv")[0] == 0
    table = pd.read_csv("table.csv")
    assert set(table.adaptation) == {"step"} and set(table.root) == {"images"} and set(table.precision) == {"fp32"} and len(table) == 6

    def stop(run): run.stop = "the test says so" if run.iteration == 3 else None
    experiment = Experiment(**tomllib.loads(ADAPTED))
    with pytest.raises(RuntimeError, match="iteration 3 of 6"): run(experiment, tmp_path / "cut", callbacks=[stop])
    cut = run(experiment, tmp_path / "cut")
    assert cut.name == whole.name and all((cut / name).read_text() == (whole / name).read_text() for name in ("swap.csv", "adaptation.csv"))


@pytest.mark.skipif(not has_bf16(), reason="no bf16 on this processor")
def test_a_sweep_in_bf16_is_another_run_with_other_weights(tmp_path):
    root = folder(tmp_path / "images", n=10)
    both = [Experiment("image_folder", "euler@1/4", ["rk4@1/4"], (0, 1), channels=4, batch_size=4, iterations=3, root=root, precision=p)
            for p in ("fp32", "bf16")]
    folders = [run(e, tmp_path / "store") for e in both]
    exact, low = (load_model(path / "model.pt") for path in folders)
    assert exact.block.field.precision == "fp32" and low.block.field.precision == "bf16"
    assert not torch.equal(exact.head.stacked[0], low.head.stacked[0])
    assert torch.allclose(exact.head.stacked[0], low.head.stacked[0], atol=1e-2)
