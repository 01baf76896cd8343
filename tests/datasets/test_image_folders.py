"""Folders of images with real links and pipes, in other processes, and with whatever can be wrong in them."""
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from PIL import Image

from neuralode_resnet.datasets import load
from neuralode_resnet.datasets.image_folders import image_folder


def make_folder(root, n=6, size=(5, 4)):
    "Images of two classes, the number of each in its green channel."
    for i in range(n):
        for red, color in ((0, "blue"), (255, "red")):
            (root / color).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (red, i, 255 - red)).save(root / color / f"{i}.png")
    return root


def read_all(root, **options):
    "Every image of a folder as (red, green), sorted: which image it is."
    found = image_folder(root, **options)
    x = torch.cat([found.x_train, found.x_test])
    return sorted(map(tuple, x[:, :2, 0, 0].tolist()))


def expect(n=6):
    return sorted((red, i) for red in (0, 255) for i in range(n))


# Caches

def test_two_processes_decode_at_once_into_one_whole_cache(tmp_path):
    make_folder(tmp_path, n=40)
    code = ("import sys; from neuralode_resnet.datasets import load; "
            "print(load('image_folder', root=sys.argv[1]).x_train.sum().item())")
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert said == {f"{load('image_folder', root=tmp_path).x_train.sum().item()}\n"}
    assert [path.suffix for path in tmp_path.iterdir() if path.is_file()] == [".pt"]


def test_a_cache_may_lie_elsewhere_or_nowhere(tmp_path):
    root = make_folder(tmp_path / "images")
    data = load("image_folder", root=root, cache=tmp_path / "elsewhere")
    again = load("image_folder", root=root, cache=False)
    assert not [*root.glob("decoded-*")]
    assert len([*(tmp_path / "elsewhere").iterdir()]) == 1
    assert torch.equal(data.x_train, again.x_train)
    assert torch.equal(data.y_test, again.y_test)


def test_train_and_test_folders_of_one_root_have_separate_caches(tmp_path):
    make_folder(tmp_path / "train", n=3)
    make_folder(tmp_path / "test", n=2)
    data = load("image_folder", root=tmp_path, size=2)
    assert data.x_train.shape == (6, 3, 2, 2)
    assert data.x_test.shape == (4, 3, 2, 2)
    assert len([*tmp_path.glob("*/decoded-*")] + [*tmp_path.glob("decoded-*")]) == 2


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_the_order_is_that_of_torchvision(nested, tmp_path):
    from torchvision.datasets import ImageFolder
    make_folder(tmp_path / "images", n=12)
    if nested:
        for name in ("a", "a-b", "a/c", "B"):
            (tmp_path / "images/red" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / "images/red/1.png", tmp_path / "images/red" / name / "Z.PNG")
    from neuralode_resnet.datasets.image_folders import _list_samples
    samples, classes = _list_samples(tmp_path / "images", {})
    theirs = ImageFolder(tmp_path / "images")
    assert [(str(file), number) for file, number in samples] == theirs.samples
    assert classes == theirs.classes


# Links

def test_links_to_files_and_to_folders_are_followed(tmp_path):
    make_folder(tmp_path / "real")
    (tmp_path / "images/red/more").mkdir(parents=True)
    (tmp_path / "images/blue").symlink_to(tmp_path / "real/blue")
    for i in range(6):
        (tmp_path / "images/red/more" / f"{i}.png").symlink_to(tmp_path / "real/red" / f"{i}.png")
    assert read_all(tmp_path / "images") == expect()


def test_the_root_may_be_a_link(tmp_path):
    make_folder(tmp_path / "real")
    (tmp_path / "images").symlink_to(tmp_path / "real")
    assert read_all(tmp_path / "images") == expect()


def test_a_change_in_a_linked_folder_gives_another_cache(tmp_path):
    make_folder(tmp_path / "real", n=3)
    make_folder(tmp_path / "images", n=3)
    (tmp_path / "images/red/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (5, 4), (255, 77, 0)).save(tmp_path / "elsewhere/7.png")
    assert (255, 77) in read_all(tmp_path / "images")
    Image.new("RGB", (5, 4), (255, 88, 0)).save(tmp_path / "elsewhere/8.png")
    assert (255, 88) in read_all(tmp_path / "images")
    (tmp_path / "elsewhere/7.png").unlink()
    assert (255, 77) not in read_all(tmp_path / "images")
    assert len([*(tmp_path / "images").glob("decoded-*")]) == 3


LOOPS = {"to its class": "red", "to the root": ".", "above the root": "..", "to another class": "blue"}


@pytest.mark.parametrize("target", LOOPS.values(), ids=LOOPS)
def test_a_loop_of_links_is_named(target, tmp_path):
    root = make_folder(tmp_path / "images")
    (root / "red/loop").symlink_to((root / target).resolve())
    with pytest.raises(ValueError, match="under another name, by a link"):
        image_folder(root)
    assert not [*root.glob("decoded-*")]


def test_two_folders_that_link_to_each_other_are_named(tmp_path):
    root = make_folder(tmp_path / "images")
    for here, there in (("red", "blue"), ("blue", "red")):
        (root / here / "other").symlink_to(root / there)
    with pytest.raises(ValueError, match="under another name"):
        image_folder(root)


def test_a_link_to_itself_is_named(tmp_path):
    root = make_folder(tmp_path / "images")
    (root / "red/self.png").symlink_to(root / "red/self.png")
    with pytest.raises(ValueError, match="red/self.png leads to nothing"):
        image_folder(root)


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize("place", ["red/copy.png", "blue/copy.png"], ids=["its class", "another class"])
def test_a_second_name_for_an_image_is_named_with_the_first(link, place, tmp_path):
    root = make_folder(tmp_path / "images")
    link(root / "red/0.png", root / place)
    with pytest.raises(ValueError) as error:
        image_folder(root)
    for name in (place, "red/0.png"):
        assert str(root / name) in str(error.value)


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_an_image_cannot_be_in_train_and_in_test(link, tmp_path):
    train, test = make_folder(tmp_path / "train"), make_folder(tmp_path / "test")
    link(train / "red/0.png", test / "red/9.png")
    with pytest.raises(ValueError, match="train/red/0.png under another name.*perhaps in train and in test"):
        image_folder(tmp_path)


def test_the_test_folder_cannot_be_the_train_folder(tmp_path):
    make_folder(tmp_path / "train")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    with pytest.raises(ValueError, match="test is .*train under another name"):
        image_folder(tmp_path)


def test_two_classes_cannot_be_one_folder(tmp_path):
    root = make_folder(tmp_path / "images")
    (root / "scarlet").symlink_to(root / "red")
    with pytest.raises(ValueError, match="scarlet is .*red under another name"):
        image_folder(root)


@pytest.mark.parametrize("name", ["red/gone.png", "red/gone", "gone"])
def test_a_link_that_leads_nowhere_is_named(name, tmp_path):
    root = make_folder(tmp_path / "images")
    (root / name).symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=f"{name} leads to nothing"):
        image_folder(root)


# Not files

@pytest.mark.parametrize("name", ["red/pipe.png", "red/deep/pipe.JPG"])
def test_a_pipe_with_the_name_of_an_image_is_named_and_does_not_block(name, tmp_path):
    root = make_folder(tmp_path / "images")
    (root / name).parent.mkdir(exist_ok=True)
    os.mkfifo(root / name)
    code = "import sys; from neuralode_resnet.datasets import load; load('image_folder', root=sys.argv[1])"
    ended = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=120)
    assert f"{name} is a pipe, a socket or a device" in ended.stderr


def test_a_link_to_a_pipe_is_named(tmp_path):
    root = make_folder(tmp_path / "images")
    os.mkfifo(tmp_path / "pipe")
    (root / "red/link.png").symlink_to(tmp_path / "pipe")
    with pytest.raises(ValueError, match="link.png is a pipe"):
        image_folder(root)


def test_a_socket_with_the_name_of_an_image_is_named(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "images")
    monkeypatch.chdir(root / "red")  # a socket's path may have some hundred characters
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.png")
        with pytest.raises(ValueError, match="socket.png is a pipe, a socket"):
            image_folder(root)


def test_a_pipe_with_another_name_is_passed_over(tmp_path):
    root = make_folder(tmp_path / "images")
    os.mkfifo(root / "red/pipe")
    os.mkfifo(root / "pipe")
    assert read_all(root) == expect()


def test_a_folder_with_the_ending_of_an_image_is_a_folder(tmp_path):
    root = make_folder(tmp_path / "images")
    (root / "red/more.png").mkdir()
    (root / "red/5.png").rename(root / "red/more.png/5.png")
    assert read_all(root) == expect()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    root = make_folder(tmp_path / "images")
    (root / "red/closed").mkdir(mode=0)
    with pytest.raises(ValueError, match="closed cannot be read"):
        image_folder(root)


# What cannot be classified

def spoil(case, root):
    "A folder of images with one fault."
    if case == "nowhere":
        return root
    if case == "empty":
        root.mkdir()
        return root
    make_folder(root)
    if case == "one class":
        shutil.rmtree(root / "red")
    elif case == "an empty class":
        (root / "green").mkdir()
    elif case == "unreadable":
        (root / "red/3.png").write_bytes((root / "red/3.png").read_bytes()[:50])
    elif case == "not RGB":
        Image.new("RGBA", (5, 4)).save(root / "blue/2.png")
    elif case == "mixed sizes":
        Image.new("RGB", (7, 4)).save(root / "red/4.png")
    return root


FAULTS = {
    "nowhere": "there is no folder",
    "empty": "holds no folders with images",
    "one class": "one class only, blue",
    "an empty class": "classes green",
    "unreadable": "red/3.png cannot be read",
    "not RGB": "blue/2.png is not RGB but RGBA",
    "mixed sizes": "red/4.png is 7 × 4",
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_named_and_leaves_no_cache(case, tmp_path):
    root = spoil(case, tmp_path / "images")
    with pytest.raises(ValueError, match=FAULTS[case]):
        load("image_folder", root=root)
    assert not [*root.glob("decoded-*")]


def test_an_empty_class_is_named_also_when_the_others_are_cached(tmp_path):
    root = make_folder(tmp_path / "images")
    image_folder(root)
    (root / "green").mkdir()
    with pytest.raises(ValueError, match="classes green"):
        image_folder(root)


def test_a_folder_lies_on_the_cpu_whatever_the_default_device_is(tmp_path):
    root = make_folder(tmp_path / "images")
    with torch.device("meta"):
        data = load("image_folder", root=root, cache=False)
    again = load("image_folder", root=root, cache=False)
    assert torch.equal(data.x_train, again.x_train)
    assert torch.equal(data.y_test, again.y_test)
