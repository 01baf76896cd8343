"Folders of images with loops, pipes, damaged files, and files that change after they were decoded."
import os
import shutil

import numpy as np
from PIL import Image

from neuralode_resnet.datasets.image_folders import image_folder

from .board import Kind, SilentlyWrong, check_kept, contents, refused


def pixels(rng):
    return np.array([rng.randrange(256) for _ in range(4 * 4 * 3)], dtype=np.uint8).reshape(4, 4, 3)


def save(path, values):
    Image.fromarray(values).save(path)


def build(folder, rng):
    "Two classes with four images each; pixels by class, as sorted lists of bytes."
    root = folder / "images"
    truth = {}
    for name in ("cat", "dög"):
        (root / name).mkdir(parents=True)
        truth[name] = [pixels(rng) for _ in range(4)]
        for i, values in enumerate(truth[name]):
            save(root / name / f"{i}.png", values)
    return root, truth


def bytes_of(truth):
    return {name: sorted(values.transpose(2, 0, 1).tobytes() for values in images) for name, images in truth.items()}


def found_in(root):
    "What is loaded: pixels by class, train and test together; train and test have no image in common."
    data = image_folder(root, seed=0)
    found = {name: [] for name in data.classes}
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        for image, number in zip(x, y.tolist()):
            found[data.classes[number]].append(image.numpy().tobytes())
    return {name: sorted(images) for name, images in found.items()}


# What is done to a folder: each returns what a refusal names, or None where the folder stays a right one

def loop(root, truth, rng):
    (root / "cat" / "again").symlink_to(rng.choice([root, root / "cat", root / "dög", root.parent]), target_is_directory=True)
    return "again"


def pipe(root, truth, rng):
    os.mkfifo(root / "cat" / "9.png")
    return "9.png"


def device(root, truth, rng):
    (root / "cat" / "9.png").symlink_to("/dev/zero")
    return "9.png"


def nowhere(root, truth, rng):
    (root / "dög" / "9.png").symlink_to(root / "nothing")
    return "9.png"


def itself(root, truth, rng):
    (root / "dög" / "9.png").symlink_to("9.png")
    return "9.png"


def twice(root, truth, rng):
    make = rng.choice([os.symlink, os.link])
    make(root / "cat" / "1.png", root / rng.choice(["cat", "dög"]) / "zz.png")
    return "zz.png"


def outside(root, truth, rng):
    "An image in a folder elsewhere counts, and its pixels decide: a change is seen."
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (root / "cat" / "more").symlink_to(elsewhere, target_is_directory=True)
    save(elsewhere / "a.png", pixels(rng))
    refused(lambda: found_in(root))  # and caches it
    values = pixels(rng)
    save(elsewhere / "a.png", values)
    truth["cat"].append(values)


def changed(root, truth, rng):
    "An image changes after it was decoded, its size and its time do not."
    path = root / "cat" / "2.png"
    values = truth["cat"][2].copy()
    values[0, 0, 0] ^= 1
    before = path.stat()
    Image.fromarray(values).save(path, compress_level=6)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    truth["cat"][2] = values


def removed(root, truth, rng):
    (root / "cat" / "0.png").unlink()
    del truth["cat"][0]


def moved(root, truth, rng):
    (root / "cat" / "0.png").rename(root / "dög" / "z.png")
    truth["dög"].append(truth["cat"].pop(0))


def damaged(root, truth, rng):
    path = root / "cat" / "0.png"
    raw = path.read_bytes()
    path.write_bytes(rng.choice([b"", raw[:30], raw[:-20], b"GIF89a", rng.randbytes(80)]))
    return "0.png"


def grey(root, truth, rng):
    Image.fromarray(pixels(rng)).convert(rng.choice(["L", "RGBA", "P", "1"])).save(root / "cat" / "0.png")
    return "0.png"


def larger(root, truth, rng):
    Image.new("RGB", (rng.choice([3, 5, 200]), 4)).save(root / "dög" / "3.png")
    return "3.png"


def bomb(root, truth, rng):
    "A small file that says it has a million times a million pixels."
    raw = bytearray((root / "cat" / "0.png").read_bytes())
    raw[16:24] = (10 ** 6).to_bytes(4, "big") * 2
    (root / "cat" / "0.png").write_bytes(raw)
    return "0.png"


def empty_class(root, truth, rng):
    (root / "owl").mkdir()
    return "owl"


def other_files(root, truth, rng):
    (root / "notes.txt").write_text("mine")
    (root / "cat" / "notes.txt").write_text("mine")
    (root / ".DS_Store").write_bytes(b"\0")


def a_folder_like_an_image(root, truth, rng):
    (root / "cat" / "9.png").mkdir()
    values = pixels(rng)
    save(root / "cat" / "9.png" / "a.png", values)
    truth["cat"].append(values)


def damaged_cache(root, truth, rng):
    for path in root.rglob("*.pt"):
        raw = bytearray(path.read_bytes())
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
    return ".pt"


ACTS = [loop, pipe, device, nowhere, itself, twice, outside, changed, removed, moved, damaged, grey, larger, bomb, empty_class,
        other_files, a_folder_like_an_image, damaged_cache]


def _attempt(scene, rng, i, folder):
    root, truth = build(folder, rng)
    act = ACTS[i % len(ACTS)]
    if act is damaged_cache or rng.random() < .6:
        found_in(root)  # so that there is a cache of what was right
    names = act(root, truth, rng)
    before = contents(root)
    found, fate = refused(lambda: found_in(root), *([names] if names else []))
    if fate == "right" and found != bytes_of(truth):
        raise SilentlyWrong(f"{act.__name__}: other images, or in other classes")
    if fate == "right" and names and act not in (damaged, damaged_cache):  # a cut may leave the pixels whole
        raise SilentlyWrong(f"{act.__name__}: nothing was said")
    if fate == "refused" and names is None:
        raise AssertionError(f"{act.__name__}: a folder that is right was refused: {found}")
    check_kept(before, contents(root))
    shutil.rmtree(root)
    return fate


KINDS = [Kind("folders of images with loops, pipes, damage, changes", "every image once, or the file is named", 108, 18, _attempt,
              limit=30.)]
