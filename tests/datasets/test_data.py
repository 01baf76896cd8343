"""Data sets where a notebook would say it badly: other processes, default devices, layouts in memory, every wrong part."""
import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from neuralode_resnet.datasets import LOADERS, Data, as_states, load, spheres, xor

PARTS = ("x_train", "y_train", "x_test", "y_test")
X = torch.tensor([[0., 1.], [1., 0.], [0., 0.], [1., 1.]])
Y = torch.tensor([1, 1, 0, 0])


def digest(data):
    "One number for all bits of a data set."
    return hashlib.sha256(b"".join(getattr(data, part).numpy().tobytes() for part in PARTS)).hexdigest()


@pytest.mark.parametrize("name", ["sphere3", "xor", "three_minima"])
def test_another_process_gets_the_same_bits(name):
    options = dict(n_train=20, n_test=8)
    code = (f"import hashlib; from neuralode_resnet.datasets import load; d = load({name!r}, seed=3, **{options!r}); "
            f"print(hashlib.sha256(b''.join(getattr(d, p).numpy().tobytes() for p in {PARTS!r})).hexdigest())")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == digest(load(name, seed=3, **options))


@pytest.mark.parametrize("name", ["sphere2", "sphere900", "xor", "three_minima"])
def test_the_default_device_does_not_matter(name):
    options = dict(n_train=4, n_test=4)
    plain = load(name, **options)
    with torch.device("meta"):
        data = load(name, **options)
    assert {getattr(data, part).device.type for part in PARTS} == {"cpu"}
    assert digest(data) == digest(plain)


def test_the_default_device_set_for_the_process_does_not_matter():
    code = ("import torch; torch.set_default_device('meta'); from neuralode_resnet.datasets import load; "
            "print(load('three_minima', n_train=4, n_test=4).x_train.device, load('sphere2').y_test.device)")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["cpu", "cpu"]


@pytest.mark.parametrize("n_train", [4, 5, 1001])
def test_training_samples_do_not_depend_on_the_number_of_test_samples(n_train):
    few, many = (load("sphere2", n_train=n_train, n_test=n) for n in (4, 500))
    assert torch.equal(few.x_train, many.x_train)
    assert torch.equal(few.y_train, many.y_train)


def test_names_seeds_and_splits_are_independent_streams():
    streams = [load(name, seed=seed, n_train=100, n_test=100) for name in ("sphere2", "sphere3") for seed in (0, 1)]
    radii = [x[:, 0].norm(dim=1) for data in streams for x in (data.x_train, data.x_test)]
    for i, a in enumerate(radii):
        for b in radii[:i]:
            assert not torch.isclose(a, b, rtol=0, atol=1e-9).any()


# States

@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 3, 5, 4), (2, 6, 3, 5, 4)], ids=["batch", "members"])
@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_images_of_every_kind_get_their_channels_last(kind, shape, dtype):
    x = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(kind)
    states = as_states(x, dtype)
    images = states.flatten(0, -4)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert states.shape == x.shape
    assert states.dtype == (dtype or (torch.float32 if kind == torch.uint8 else kind))
    expected = x.to(states.dtype) / 255 if kind == torch.uint8 else x.to(states.dtype)
    assert torch.equal(states, expected)


def test_states_that_are_no_images_are_returned_as_they_are():
    for x in (torch.rand(5, 2), torch.rand(5, 1, 2)):
        assert as_states(x) is x


def test_images_that_are_laid_out_already_are_not_copied():
    x = torch.rand(6, 3, 5, 4).contiguous(memory_format=torch.channels_last)
    assert as_states(x) is x
    members = as_states(torch.rand(2, 6, 3, 5, 4))
    assert as_states(members).data_ptr() == members.data_ptr()


# What is wrong

WRONG = {
    "x_train must be a floating-point": dict(x_train=X.long()),
    "x_train must be a floating-point tensor, or uint8 pixels, got list": dict(x_train=X.tolist()),
    "x_test must hold samples": dict(x_test=X[:, 0]),
    "y_train must be .* one label per sample": dict(y_train=Y[:3]),
    r"y_train must be .* got \(4,\) in list": dict(y_train=Y.tolist()),
    "y_test must be .* in int64": dict(y_test=Y.float()),
    "y_test must lie in 0 … 1, got -1 … 0": dict(y_test=Y - 1),
    "n_classes must be a whole number, at least 2, got True": dict(n_classes=True),
    "must be finite, got 1 of 4": dict(x_test=torch.where(X == X[2], torch.nan, 0.)[[2, 3, 3, 3]]),
    "the same state shape": dict(x_test=X[:, :1]),
    "the same dtype": dict(x_test=X.double()),
    "the same device": dict(y_test=Y.to("meta")),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_contradiction_is_refused_with_what_was_given(words):
    parts = dict(name="wrong", x_train=X, y_train=Y, x_test=X, y_test=Y, n_classes=2)
    Data(**parts)
    with pytest.raises(ValueError, match=words):
        Data(**parts | WRONG[words])


@pytest.mark.parametrize("name", ["spheres", "Sphere2", "sphere-1", "sphere", "", None, 3])
def test_a_name_that_does_not_exist_gets_a_suggestion(name):
    with pytest.raises(ValueError, match="unknown data set .* nearest: "):
        load(name)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        spheres(2, seed=seed)


@pytest.mark.parametrize("noise", [-.1, float("nan"), float("inf"), True, "0"])
def test_noise_is_a_finite_number(noise):
    with pytest.raises(ValueError, match="noise must be a finite number"):
        xor(noise=noise)


@pytest.mark.parametrize("name", LOADERS)
def test_an_unknown_option_is_named_with_those_that_exist(name):
    with pytest.raises(ValueError, match=f"{name} has no option 'colour'; it has "):
        load(name, colour="red")


def test_moved_data_keep_their_labels_and_their_record():
    data = load("xor", seed=3)
    moved = data.to("cpu", torch.float64)
    assert moved.x_train.dtype == torch.float64
    assert moved.y_train.dtype == torch.int64
    assert (moved.name, moved.seed, moved.n_classes) == ("xor", 3, 2)
    assert np.array_equal(moved.x_train.numpy(), data.x_train.double().numpy())
