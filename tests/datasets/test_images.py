"""Decoded images where a notebook would say it badly: damaged caches, other processes, imports that must not happen."""
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from neuralode_resnet.datasets import load
from neuralode_resnet.datasets.images import MNIST_FILES, decode_once


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def make_digits(root, n=20):
    draw = np.random.default_rng(0)
    for split in ("train", "t10k"):
        write_idx(root / "MNIST/raw" / f"{split}-images-idx3-ubyte", draw.integers(0, 255, (n, 28, 28)))
        write_idx(root / "MNIST/raw" / f"{split}-labels-idx1-ubyte", np.arange(n) % 10)
    return root


def ask(root):
    (root / "a.raw").write_bytes(b"abc")
    return decode_once(root, [root / "a.raw"], lambda: dict(x=torch.arange(1000), name="a"), 8000)


def test_importing_everything_leaves_torchvision_alone():
    code = ("import pkgutil, sys, neuralode_resnet as p\n"
            "for m in pkgutil.walk_packages(p.__path__, 'neuralode_resnet.'): __import__(m.name)\n"
            "assert 'torchvision' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_flipped_bit_in_a_cache_is_read(tmp_path, monkeypatch):
    (tmp_path / "a.raw").write_bytes(b"abc")
    calls = []

    def decode():
        calls.append(1)
        return dict(x=torch.arange(1000), name="a")

    def read():
        return decode_once(tmp_path, [tmp_path / "a.raw"], decode, 8000)

    read()
    (cache,) = tmp_path.glob("decoded-*")
    raw = cache.read_bytes()
    silent = []
    for place in range(0, len(raw), 61):
        cache.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1:])
        try:
            found = read()
        except ValueError as error:
            assert cache.name in str(error) and "delete it" in str(error)
            continue
        if not torch.equal(found["x"], torch.arange(1000)) or found["name"] != "a":
            silent.append(place)
    assert silent == []
    assert len(calls) == 1, "a damaged cache must not be replaced silently"


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4"], ids=["empty", "text", "cut"])
def test_a_cache_that_is_no_archive_is_named(content, tmp_path):
    ask(tmp_path)
    (cache,) = tmp_path.glob("decoded-*")
    cache.write_bytes(content)
    stamp = (tmp_path / "a.raw").stat()
    with pytest.raises(ValueError, match=f"{cache.name}.*delete it"):
        decode_once(tmp_path, [tmp_path / "a.raw"], dict, 8000)
    assert (tmp_path / "a.raw").stat().st_mtime_ns == stamp.st_mtime_ns
    assert cache.read_bytes() == content


def test_a_cache_with_code_in_it_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return print, ("this must not be printed",)

    ask(tmp_path)
    (cache,) = tmp_path.glob("decoded-*")
    torch.save(dict(x=Payload()), cache)
    with pytest.raises(ValueError, match="could run code"):
        decode_once(tmp_path, [tmp_path / "a.raw"], dict, 8000)


def test_a_cache_is_a_whole_archive_without_a_temporary_file_beside_it(tmp_path):
    ask(tmp_path)
    (cache,) = tmp_path.glob("decoded-*")
    assert zipfile.ZipFile(cache).testzip() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.raw", cache.name]


@pytest.mark.parametrize("name", MNIST_FILES)
@pytest.mark.parametrize("n_bytes", [0, 3, 15, 100])
def test_a_file_of_mnist_that_is_cut_short_is_named(name, n_bytes, tmp_path):
    file = make_digits(tmp_path) / "MNIST/raw" / name
    file.write_bytes(file.read_bytes()[:n_bytes] if n_bytes < file.stat().st_size else b"")
    with pytest.raises(ValueError, match=f"{name} is no whole idx file"):
        load("mnist", root=tmp_path)
    assert not [*tmp_path.glob("decoded-*")]


def test_mnist_lies_on_the_cpu_whatever_the_default_device_is(tmp_path):
    make_digits(tmp_path)
    plain = load("mnist", root=tmp_path, cache=False)
    with torch.device("meta"):
        decoded, cached = load("mnist", root=tmp_path), load("mnist", root=tmp_path)
    for data in (decoded, cached):
        assert torch.equal(data.x_train, plain.x_train)
        assert torch.equal(data.y_test, plain.y_test)
