"""Precision: gradients by every way back, ensembles, files, layouts, and switches of the process that come back."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from neuralode_resnet.datasets import Data, as_states
from neuralode_resnet.models import (
    NeuralODE, check_precision, compile_field, load_model, member, precision, save_model, solve_memory,
)
from neuralode_resnet.models.precision import PRECISIONS, evaluate_in, evaluated_in, switched_to
from neuralode_resnet.training import fit


def make_images(n=8, state=(3, 8, 8), n_classes=2):
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, *state), dtype=torch.uint8, generator=draw)
    y = torch.arange(n) % n_classes
    return Data("noise", x, y, x, y, n_classes)


def has_bf16():
    try:
        return bool(check_precision("bf16"))
    except ValueError:
        return False


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("solver", ["euler@1/8", "dopri5@1e-2"])
def test_bf16_gives_the_gradient_of_fp32_within_its_rounding(gradient, solver):
    data, grads = make_images(), {}
    x = data.x_train / 255
    for name in ("fp32", "bf16"):
        model = NeuralODE.for_data(data, solver, channels=8, gradient=gradient, precision=name)
        logits = model(x)
        logits.logsumexp(-1).sum().backward()
        assert logits.dtype == torch.float32
        assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
        grads[name] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert 0 < (grads["bf16"] - grads["fp32"]).norm() < .1 * grads["fp32"].norm()


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_members_of_an_image_ensemble_are_the_models_alone(name):
    data = make_images()
    ensemble = NeuralODE.for_data(data, "euler@1/4", channels=8, seed=[3, 4], precision=name)
    x = data.x_train / 255
    alone = NeuralODE.for_data(data, "euler@1/4", channels=8, seed=4, precision=name)
    assert member(ensemble, 1).block.field.precision == name
    assert torch.allclose(ensemble(ensemble.for_members(x))[1], alone(x), atol=1e-5)


def test_a_file_keeps_the_precision_and_one_of_before_means_fp32(tmp_path):
    model = NeuralODE.for_data(make_images(), "euler@1/4", channels=8, precision="bf16")
    save_model(model, tmp_path / "model.pt")
    assert load_model(tmp_path / "model.pt").block.field.precision == "bf16"
    del model.config["precision"]
    save_model(model, tmp_path / "before.pt")
    assert load_model(tmp_path / "before.pt").block.field.precision == "fp32"


def test_compiled_field_keeps_precision_and_gradient():
    data = make_images()
    plain, compiled = (NeuralODE.for_data(data, "euler@1/4", channels=8, precision="bf16") for _ in range(2))
    x = data.x_train / 255
    assert compile_field(compiled, x, backend="aot_eager")
    for model in (plain, compiled):
        model(x).square().sum().backward()
    for a, b in zip(plain.parameters(), compiled.parameters()):
        assert torch.allclose(a.grad, b.grad, rtol=.05, atol=.05 * a.grad.abs().max())


@pytest.mark.skipif(not has_bf16(), reason="no bf16 on this processor")
def test_training_in_bf16_keeps_fp32_weights_and_learns():
    data = make_images(64)
    model = NeuralODE.for_data(data, "euler@1/2", channels=8, precision="bf16")
    history = fit(model, data, iterations=60, batch_size=32, lr=1e-2, progress=False)
    assert history.loss.iloc[-1] < .5 * history.loss.iloc[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", PRECISIONS)
def test_on_a_gpu_precisions_agree_and_the_estimate_is_most_of_what_is_allocated(name):
    data = SimpleNamespace(x_train=torch.rand(64, 3, 32, 32), n_classes=10)
    x = data.x_train.cuda()
    exact = NeuralODE.for_data(data, "euler@1/16", channels=64).cuda()
    expected = exact(x).detach()
    model = NeuralODE.for_data(data, "euler@1/16", channels=64, precision=name).cuda()
    check_precision(name, "cuda")
    torch.cuda.reset_peak_memory_stats()
    logits = model(x)
    logits.sum().backward()
    assert (logits - expected).norm() < dict(fp32=1e-5, tf32=1e-2, bf16=1e-1)[name] * expected.norm()
    assert .5 < solve_memory(model.block, x[:1], 64) / torch.cuda.max_memory_allocated() < 1.2


# What the hardware has

def pretend_gpus(monkeypatch, *capabilities, hip=None):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: capabilities[torch.device(device).index or 0])
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args: True)
    monkeypatch.setattr("torch.version.hip", hip)


@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_the_device_in_question_is_asked_not_the_first_one(name, monkeypatch):
    pretend_gpus(monkeypatch, (8, 0), (7, 0))
    assert check_precision(name, "cuda") == check_precision(name, "cuda:0") == name
    with pytest.raises(ValueError, match=f"precision {name} needs .*; the cuda:1 here is none"):
        check_precision(name, "cuda:1")


def test_amd_has_bf16_but_no_tf32(monkeypatch):
    pretend_gpus(monkeypatch, (9, 4), hip="6.4")
    assert check_precision("bf16", "cuda") == "bf16"
    with pytest.raises(ValueError, match="tf32 needs an NVIDIA GPU"):
        check_precision("tf32", "cuda")


@pytest.mark.parametrize("device", ["meta", "mps", "xpu"])
@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_other_devices_have_fp32_only(device, name):
    assert check_precision("fp32", device) == "fp32"
    with pytest.raises(ValueError, match="use --precision fp32"):
        check_precision(name, device)


# The switches of the process. Kernels of a processor do not read them, so the tests can count it as a GPU.

class Note(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, notes):
        notes.append(precision._read_switches())
        ctx.notes = notes
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.notes.append(precision._read_switches())
        return gradient, None


class Noting(nn.Module):
    "A layer that notes which switches its kernels would find."
    def __init__(self):
        super().__init__()
        self.layer, self.notes = nn.Linear(3, 3), []

    def forward(self, x):
        return self.layer(Note.apply(x, self.notes))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(precision, "_SWITCHED_KINDS", ("cpu",))
    before = precision._read_switches()
    yield before
    assert precision._read_switches() == before
    precision._set_switches(before)


@pytest.mark.parametrize("how", ["plain", "checkpoint", "reentrant checkpoint", "grad", "graph of the gradient"])
@pytest.mark.parametrize("name", ["fp32", "tf32"])
def test_forward_and_backward_find_the_switches_and_the_process_gets_its_own_back(name, how, as_on_a_gpu):
    net, x = Noting(), torch.rand(4, 3, requires_grad=True)

    def evaluate(x):
        return evaluate_in(name, net, x)

    if "checkpoint" in how:
        out = checkpoint(evaluate, x, use_reentrant="reentrant" in how)
    else:
        out = evaluate(x)
    assert precision._read_switches() == as_on_a_gpu
    if "grad" in how:
        torch.autograd.grad(out.sum(), x, create_graph="graph" in how)
    else:
        out.sum().backward()
    assert len(net.notes) >= 2
    assert set(net.notes) == {precision._wanted(name)} != {as_on_a_gpu}


def test_two_precisions_in_one_backward_pass_keep_apart(as_on_a_gpu):
    first, second = Noting(), Noting()
    x = torch.rand(4, 3, requires_grad=True)
    evaluate_in("tf32", second, evaluate_in("fp32", first, x)).sum().backward()
    assert set(first.notes) == {precision._wanted("fp32")}
    assert set(second.notes) == {precision._wanted("tf32")}


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_a_training_of_images_leaves_the_switches_as_they_were(gradient, as_on_a_gpu):
    data = make_images()
    model = NeuralODE.for_data(data, "euler@1/4", channels=4, gradient=gradient)
    fit(model, data, iterations=2, batch_size=4, progress=False)


def test_an_interrupted_evaluation_and_backward_pass_leave_nothing_behind(as_on_a_gpu):
    def fail(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_in("tf32", fail, torch.rand(3))
    assert precision._read_switches() == as_on_a_gpu
    x = torch.rand(4, 3, requires_grad=True)
    out = evaluate_in("tf32", Noting(), x)
    x.register_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        out.sum().backward()
    evaluate_in("fp32", Noting(), torch.rand(4, 3, requires_grad=True)).sum().backward()


def test_switches_that_a_user_has_set_come_back(as_on_a_gpu):
    users = precision._wanted("tf32")
    precision._set_switches(users)
    try:
        with evaluated_in("fp32", "cpu"):
            assert precision._read_switches() == precision._wanted("fp32")
            with switched_to("tf32", "cpu"):
                assert precision._read_switches() == precision._wanted("tf32")
            assert precision._read_switches() == precision._wanted("fp32")
        assert precision._read_switches() == users
    finally:
        precision._set_switches(as_on_a_gpu)


def test_the_older_switches_can_still_be_read_afterwards(as_on_a_gpu):
    older = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    evaluate_in("fp32", Noting(), torch.rand(4, 3, requires_grad=True)).sum().backward()
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == older


def test_functional_derivatives_go_through(as_on_a_gpu):
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.rand(3)

    def evaluate(x):
        return evaluate_in("fp32", net, x)

    assert torch.allclose(torch.func.jacrev(evaluate)(x), torch.func.jacfwd(net)(x), atol=1e-6)
    assert torch.func.vmap(torch.func.jacrev(evaluate))(x.expand(4, 3)).shape == (4, 3, 3)


def test_a_compiled_evaluation_is_one_graph(as_on_a_gpu):
    net, x = nn.Linear(3, 3), torch.rand(4, 3)
    compiled = torch.compile(lambda x: evaluate_in("fp32", net, x), backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), net(x))


def test_a_processor_is_left_alone():
    net, x = Noting(), torch.rand(4, 3, requires_grad=True)
    before = precision._read_switches()
    for name in ("fp32", "tf32"):
        evaluate_in(name, net, x).sum().backward()
    assert set(net.notes) == {before}


# Layout

@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["alone", "ensemble"])
def test_convolutions_see_channels_last_from_the_first_step_to_the_last(gradient, seed):
    data, seen = make_images(state=(3, 6, 6)), []
    model = NeuralODE.for_data(data, "euler@1/4", channels=8, gradient=gradient, seed=seed)
    template = model.block.field if model.members is None else model.block.field.template[0]

    def note(layer, inputs):
        seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for layer in template.net[::2]:
        layer.register_forward_pre_hook(note)
    fit(model, data, iterations=2, batch_size=4, progress=False, seed=[0, 1] if model.members else 0)
    assert all(seen)
    assert len(seen) >= 3 * 2 * 4 * (model.members or 1)
    weights = [p for p in model.block.field.parameters() if p.shape[-2:] == (3, 3)]
    for weight in weights:
        kernel = weight if weight.dim() == 4 else weight[1]
        assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert as_states(data.x_train).is_contiguous(memory_format=torch.channels_last)


def test_a_model_read_from_its_file_keeps_the_layout(tmp_path):
    save_model(NeuralODE.for_data(make_images(), "euler@1/4", channels=8), tmp_path / "model.pt")
    convolutions = [m for m in load_model(tmp_path / "model.pt").modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 3
    for convolution in convolutions:
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
