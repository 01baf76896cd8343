"""Images, precision and memory where a notebook would say it badly: other processes, files of before, every way back."""
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from neuralode_resnet.datasets import Data, load
from neuralode_resnet.memory import kept_bytes, solve_memory
from neuralode_resnet.models import NeuralODE, compile_field, load_model, member, save_model
from neuralode_resnet.precision import check_precision
from neuralode_resnet.training import TrainingError, fit


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
    assert torch.allclose(ensemble(ensemble.for_members(x))[1], alone(x), atol=1e-5 if precision == "fp32" else .1)


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
