"Files that are not what they were: flipped bits, truncations, crafted payloads, exchanged folders, odd notes."
import json
import os
import random
import shutil
from dataclasses import replace

import numpy as np
import torch

from neuralode_resnet.experiments import Experiment, collect, run, runs, status, sweep
from neuralode_resnet.experiments.results import read_model
from neuralode_resnet.files import CheckpointError
from neuralode_resnet.models import load_model
from neuralode_resnet.valid_training import RECOMMENDED

from .board import BytesLost, Kind, SilentlyWrong, check_kept, check_same, contents, refused

SMALL = Experiment("sphere2", "euler@1/2", ["euler@1/4", "rk4@1/4"], seeds=[0, 1], iterations=40, channels=4, lr=1e-3)
OTHER = replace(SMALL, lr=1e-4)
CONTROLLED = Experiment("sphere2", RECOMMENDED.solver, ["rk4@1/4"], seeds=[0, 1], iterations=40, channels=4, lr=1e-3,
                        draw=RECOMMENDED.draw, adaptation={**RECOMMENDED.adaptation, "check_every": 7})
BLOCK = 15  # iterations between two checkpoints, so that a short run has several
PASSING = (".lock", "checkpoint.pt", "progress.json", "failed.json", "done.json", "environment.json", "tensorboard")


def weights_of(path):
    "Weights, settings and dtype of a model file, to compare."
    model = load_model(path)
    state = {name: (str(value.dtype), value.numpy().tobytes()) for name, value in model.state_dict().items()}
    return state, model.config, str(model.block.solver_name), model.max_nfe


def result_of(folder):
    "What a finished run says, bit for bit; times, versions and places left out."
    texts = contents(folder, but=(*PASSING, "model.pt"))
    return texts, weights_of(folder / "model.pt")


def rows_of(store):
    "What is collected from a store, without what may differ between two runs of the same experiment."
    return collect(store).drop(columns="wall_s").to_csv(index=False)


def flip(path, rng):
    "Flip one bit of a file."
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def cut(path, rng):
    "Cut a file short."
    raw = path.read_bytes()
    path.write_bytes(raw[:rng.randrange(len(raw))])


# Scenes

def finished(folder):
    "A store with two finished runs, its rows, and what each says."
    store = folder / "store"
    for experiment in (SMALL, OTHER):
        run(experiment, store)
    return store, rows_of(store), {path.name: result_of(path) for path in store.iterdir() if path.is_dir()}


def interrupted(folder):
    "A store with a run that has a checkpoint and is not done, and what it says when nothing disturbs it."
    runs.BLOCK = BLOCK
    expected = result_of(run(CONTROLLED, folder / "undisturbed"))

    def stop(training):
        training.stop = "a test" if training.iteration == 20 else None
    store = folder / "store"
    try:
        run(CONTROLLED, store, callbacks=[stop])
    except runs.RunStopped:
        pass
    assert (store / CONTROLLED.name / "checkpoint.pt").exists()
    return store, expected


def copy(store, folder):
    "A store of its own for one try."
    return shutil.copytree(store, folder / "store")


# Model files

def _damaged_model(damage):
    def attempt(scene, rng, i, folder):
        store, _, results = scene
        path = folder / "model.pt"
        shutil.copy(store / SMALL.name / "model.pt", path)
        damage(path, rng)
        found, fate = refused(lambda: weights_of(path), "model.pt", by=CheckpointError)
        if fate == "right":
            check_same(found, results[SMALL.name][1], "the model has other weights or settings")
        return fate
    return attempt


# Checkpoints

def _damaged_checkpoint(damage, name="checkpoint.pt"):
    def attempt(scene, rng, i, folder):
        store, expected = scene
        store = copy(store, folder)
        runs.BLOCK = BLOCK
        path = store / CONTROLLED.name
        damage(path / name, rng)
        before = contents(path, but=(".lock", "failed.json", "progress.json"))
        found, fate = refused(lambda: result_of(run(CONTROLLED, store)), name, by=ValueError)
        if fate == "right":
            check_same(found, expected, f"a run went on from a damaged {name} to another result")
        else:
            check_kept(before, contents(path))
        return fate
    return attempt


# Results

def _damaged_result(damage):
    def attempt(scene, rng, i, folder):
        store, rows, results = scene
        store = copy(store, folder)
        path = store / SMALL.name
        name = rng.choice(sorted(file.name for file in path.iterdir() if file.name[0] != "."))
        damage(path / name, rng)
        before = contents(store, but=(".lock",))
        frame = collect(store)
        said = frame.attrs["damaged"]
        own = frame.drop(columns="wall_s").to_csv(index=False)
        fate = "refused" if said else "right"
        if said:
            assert set(said) == {SMALL.name}, said
            assert name in said[SMALL.name], f"{name} is not named: {said}"
            check_same(set(frame.run), {OTHER.name}, "rows of a damaged run")
        else:
            check_same(own, rows, f"other rows from a damaged {name}")
            wall_s = json.loads((scene[0] / SMALL.name / "done.json").read_text())["wall_s"]
            check_same(set(frame[frame.run == SMALL.name].wall_s), {wall_s}, f"another time from a damaged {name}")
        _, again = refused(lambda: read_model(path), SMALL.name, by=ValueError)
        failed = sweep([SMALL, OTHER], store, jobs=1, progress=False)
        assert bool(failed) == bool(said), f"collect says {said}, sweep says {failed}"
        assert len(status(store)) == 2
        check_kept(before, contents(store))
        return fate
    return attempt


# Crafted payloads

def _first(payload):
    return next(iter(payload["weights"]))


def _fill(value):
    def change(payload, rng):
        weights = payload["weights"]
        name = rng.choice(list(weights))
        weights[name] = weights[name].clone()
        weights[name].view(-1)[rng.randrange(weights[name].numel())] = value
    return change


def _set(place, name, value):
    def change(payload, rng):
        (payload[place] if place else payload)[name] = value
    return change


def _drop(place, name):
    def change(payload, rng):
        del (payload[place] if place else payload)[name]
    return change


def _reshape(payload, rng):
    name = rng.choice(list(payload["weights"]))
    payload["weights"][name] = payload["weights"][name].flatten()[:1]


def _other_dtype(payload, rng):
    names = list(payload["weights"])
    payload["weights"][rng.choice(names)] = payload["weights"][names[0]].to(torch.int64)


ODD = [None, True, -1, 0, 1.5, 2 ** 70, float("nan"), float("inf"), "", "x", [], [None], {}, {"a": 1}, torch.zeros(2), [0, 0]]
SETTINGS = ["field", "state", "channels", "n_classes", "solver", "gradient", "precision", "seed"]
PAYLOADS = {
    "a weight is NaN": _fill(float("nan")),
    "a weight is infinite": _fill(float("inf")),
    "a shape is another": _reshape,
    "a dtype is another": _other_dtype,
    "an unknown setting": _set("config", "activation", "tanh"),
    "an unknown part": _set(None, "more", 1),
    "weights are a list": _set(None, "weights", [1]),
    "settings are a list": _set(None, "config", []),
    "no weights": _set(None, "weights", {}),
    "no settings": _set(None, "config", {}),
    "a huge width": _set("config", "channels", 10 ** 9),
    "max_nfe is a text": _set("config", "max_nfe", "many"),
    "max_nfe is negative": _set("config", "max_nfe", -1),
    **{f"without {name}": _drop("config", name) for name in SETTINGS},
    **{f"{name} = {value!r}": _set("config", name, value) for name in SETTINGS for value in ODD},
}


def _crafted(scene, rng, i, folder):
    store, _, results = scene
    path = folder / "model.pt"
    payload = torch.load(store / SMALL.name / "model.pt", weights_only=True)
    names = list(PAYLOADS)
    name = names[i % len(names)]
    PAYLOADS[name](payload, rng)
    torch.save(payload, path)
    found, fate = refused(lambda: load_model(path), "model.pt", by=CheckpointError)
    if fate == "right":
        said = dict(payload["config"])
        own = found.config
        check_same({key: own.get(key) for key in said}, said, f"{name}: loaded with other settings")
        state = found.state_dict()
        for key, value in payload["weights"].items():
            if not bool(value.isfinite().all()) or not torch.equal(state[key], value):
                raise SilentlyWrong(f"{name}: loaded with these weights")
        x = torch.zeros(found.members or 1, 3, *said["state"])
        logits = found(x if found.members else x[0])
        check_same(logits.shape[-1], said["n_classes"], f"{name}: another number of classes")
        if name not in ("precision = None",):
            untouched = {**torch.load(store / SMALL.name / "model.pt", weights_only=True)["config"]}
            legal = {key: value for key, value in said.items() if untouched.get(key) != value}
            if any(isinstance(value, (dict, torch.Tensor)) or value is None or value is True for value in legal.values()):
                raise SilentlyWrong(f"{name}: accepted")
    return fate


def _code(scene, rng, i, folder):
    "A file that asks for code when it is loaded."
    import pickle
    import zipfile
    mark = folder / "ran"

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)
    path = folder / "model.pt"
    payload = pickle.dumps({"config": Attack(), "weights": {}}, protocol=2)
    if i % 2:
        path.write_bytes(payload)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", payload)
            archive.writestr("model/version", "3\n")
            archive.writestr("model/byteorder", "little")
    _, fate = refused(lambda: load_model(path), "model.pt", by=CheckpointError)
    check_same(mark.exists(), False, "a file ran code")
    check_same(fate, "refused", "a file with code was loaded")
    return fate


def _crafted_checkpoint(scene, rng, i, folder):
    store, expected = scene
    store = copy(store, folder)
    runs.BLOCK = BLOCK
    path = store / CONTROLLED.name / "checkpoint.pt"
    payload = torch.load(path, weights_only=True)
    name = sorted(payload)[i % len(payload)]
    value = rng.choice([*ODD, "drop", "NaN"])
    if isinstance(value, str) and value == "drop":
        del payload[name]
    elif isinstance(value, str) and value == "NaN" and name == "weights":
        _fill(float("nan"))(payload, rng)
    else:
        payload[name] = value
    torch.save(payload, path)
    found, fate = refused(lambda: result_of(run(CONTROLLED, store)), "checkpoint.pt", by=ValueError)
    if fate == "right":
        check_same(found, expected, f"a checkpoint with {name} = {value!r} went on to another result")
    return fate


# Folders

def _exchanged(scene, rng, i, folder):
    store, rows, _ = scene
    store = copy(store, folder)
    first, second = store / SMALL.name, store / OTHER.name
    act = ("exchange", "copy", "rename", "experiment.toml", "swap.csv", "model.pt", "done.json", "all but done.json")[i % 8]
    if act == "exchange":
        first.rename(store / "aside")
        second.rename(first)
        (store / "aside").rename(second)
    elif act == "copy":
        shutil.copytree(first, store / f"sphere2_euler_1-2_{rng.getrandbits(40):010x}")
    elif act == "rename":
        first.rename(store / f"{rng.choice(['a', 'run', 'x y', 'ü'])}")
    elif act == "all but done.json":
        for file in second.iterdir():
            if file.name not in ("done.json", ".lock"):
                shutil.copy(file, first)
    else:
        shutil.copy(second / act, first / act)
    before = contents(store, but=(".lock",))
    found, fate = refused(lambda: collect(store))
    if fate == "right":
        said = found.attrs["damaged"]
        own = {name: part for name, part in found.drop(columns="wall_s").groupby("run")}
        for name, part in own.items():
            true = collect(scene[0]).drop(columns="wall_s")
            check_same(part.to_csv(index=False), true[true.run == name].to_csv(index=False), f"{act}: other rows of {name}")
        identical = act == "swap.csv" and not said  # both runs may have the same table
        if not said and not identical:
            raise SilentlyWrong(f"{act}: collected without a word")
    check_kept(before, contents(store))
    return "refused"


NOTES = ["", "{}", "[]", "null", "3", '"x"', "{", "{" * 5000, '{"sha256": 3}', '{"sha256": {}}', '{"wall_s": "x", "failed": {}, '
         '"sha256": {}}', '{"reason": []}', '{"reason": null}', '{"iteration": {}}', '{"iteration": true}', '{"iteration": -5}',
         '{"iteration": 1e999}', '{"iteration": "9"}', "\ufeff{}", "\0", "é" * 100, '{"format": 99}', '{"a": NaN}']


def _odd_note(scene, rng, i, folder):
    store, rows, _ = scene
    store = copy(store, folder)
    names = ("done.json", "progress.json", "failed.json", "environment.json")
    name = names[i % 4]
    text = NOTES[i // 4 % len(NOTES)]
    odd = store / ("odd" if rng.random() < .5 else SMALL.name)
    odd.mkdir(exist_ok=True)
    (odd / name).write_text(text)
    if rng.random() < .1:
        (odd / name).write_bytes(rng.randbytes(40))
    before = contents(store, but=(".lock", "progress.json"))
    assert len(status(store)) == (3 if odd.name == "odd" else 2)
    frame = collect(store)
    true = collect(scene[0])
    healthy = true[true.run == OTHER.name].to_csv(index=False)
    check_same(frame[frame.run == OTHER.name].to_csv(index=False), healthy, "other rows of a healthy run")
    own = frame[frame.run == SMALL.name].to_csv(index=False)
    known = SMALL.name in frame.attrs["damaged"]
    if not known:
        check_same(own, true[true.run == SMALL.name].to_csv(index=False), f"other rows with {name} = {text[:20]!r}")
    sweep([OTHER], store, jobs=1, progress=False)
    check_kept(before, contents(store))
    return "refused" if frame.attrs["damaged"] else "right"


def _leftovers(scene, rng, i, folder):
    "Temporary files of killed writers go, and nothing else does."
    store, expected = scene
    store = copy(store, folder)
    runs.BLOCK = BLOCK
    path = store / CONTROLLED.name
    ours = [f".{name}.{rng.randrange(1, 10 ** 6)}" for name in ("model.pt", "checkpoint.pt", "metrics-00015.csv", "done.json")]
    theirs = [".diary.79", "notes.txt", ".model.pt.bak", ".checkpoint.pt.x7", "my.model.pt.12", ".other.pt.12"]
    for name in (*ours, *theirs):
        (path / name).write_bytes(rng.randbytes(rng.randrange(1, 2000)))
    before = {name: raw for name, raw in contents(path).items() if name in theirs}
    mark = store / f".store.toml.{rng.randrange(1, 10 ** 6)}"
    mark.write_text("form")
    os.utime(mark, (0, 0))
    run(CONTROLLED, store)
    left = contents(path)
    check_kept(before, left)
    assert not set(ours) & set(left), "a temporary file has stayed"
    assert not mark.exists(), f"{mark.name} has stayed"
    for name in theirs:
        (path / name).unlink()
    check_same(result_of(path), expected, "another result beside leftovers")
    return "right"


KINDS = [
    Kind("one bit of model.pt flipped", "the same model, or refused by name", 400, 40, _damaged_model(flip), finished),
    Kind("model.pt cut short", "refused by name", 60, 10, _damaged_model(cut), finished),
    Kind("model.pt crafted", "refused by name", 160, 25, _crafted, finished),
    Kind("a file that carries code", "refused, nothing runs", 10, 2, _code),
    Kind("one bit of checkpoint.pt flipped", "the same result to the last bit, or refused by name", 100, 6,
         _damaged_checkpoint(flip), interrupted),
    Kind("checkpoint.pt cut short", "refused by name", 20, 2, _damaged_checkpoint(cut), interrupted),
    Kind("checkpoint.pt crafted", "the same result, or refused by name", 50, 5, _crafted_checkpoint, interrupted),
    Kind("one bit of experiment.toml of a run that is not done flipped", "the same result, or refused by name", 30, 2,
         _damaged_checkpoint(flip, "experiment.toml"), interrupted),
    Kind("one bit of a finished run flipped", "the same rows, or named and left out; the other run stays", 60, 6,
         _damaged_result(flip), finished),
    Kind("a file of a finished run cut short", "named and left out; the other run stays", 24, 3, _damaged_result(cut), finished),
    Kind("run folders exchanged, copied, renamed, mixed", "named, no rows under a wrong name", 24, 8, _exchanged, finished),
    Kind("odd notes in a run folder", "one run is named, the store stays readable", 92, 8, _odd_note, finished),
    Kind("temporary files of killed writers", "swept at the next start, only our own", 20, 2, _leftovers, interrupted),
]
