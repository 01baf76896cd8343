"Configurations, spellings and command lines that are not what they should be."
import copy
import math
import shutil
import time
import tomllib
from datetime import date
from fractions import Fraction

import tomli_w

from neuralode_resnet.experiments import Experiment, expand, experiment, to_toml
from neuralode_resnet.solvers import TABLEAUS, Solver
from neuralode_resnet.solvers.solver import SolveError
from neuralode_resnet.training import TrainingError

from .board import Kind, SilentlyWrong, check_kept, check_same, contents, refused, run_command
from .damage import SMALL, finished

# Configurations

BASE = {"data": "sphere2", "train_solver": "euler@1/2", "test_solvers": ["rk4@1/4"], "seeds": [0], "iterations": 3,
        "channels": 2, "batch_size": 8, "lr": 1e-3}
TABLES = [
    BASE,
    {**{key: BASE[key] for key in BASE if key != "test_solvers"}, "test_methods": ["euler", "rk4"], "test_factors": [1, 2]},
    {**BASE, "draw": {"kind": "depth", "low": 1, "high": 3}},
    {**BASE, "train_solver": "midpoint@1/4", "draw": {"kind": "depth", "low": 2, "high": 6},
     "adaptation": {"kind": "validity", "test_solver": "rk4", "check_every": 2}},
    {**BASE, "train_solver": "dopri5@1e-2", "draw": {"kind": "tolerance", "low": 1e-4, "high": .1}},
    {**BASE, "train_solver": "dopri5@1e-2", "adaptation": {"kind": "tolerance_controller", "check_every": 2}},
    {**BASE, "adaptation": {"kind": "step", "test_solver": "midpoint", "check_every": 2}},
    {**BASE, "draw": {"kind": "penalty", "weight": 1.}},
    {**BASE, "draw": {"kind": "end", "spread": .5}},
    {**BASE, "draw": {"kind": "method", "solvers": ["euler@1/2", "rk4@1/2"]}},
    {**BASE, "train_solver": "euler@1/2", "draw": {"kind": "coarse_to_fine", "first": 2, "last": 4}},
    {**{key: BASE[key] for key in BASE if key != "train_solver"}, "scheme": "recommended", "nfe": 8},
]
FIELDS = [*Experiment.__dataclass_fields__, "scheme", "nfe", "test_methods", "test_factors", "grid"]
VALUES = [-1, 0, 1, 2, 3, True, False, .5, 1.5, 1e308, -1e308, 1e-308, math.inf, -math.inf, math.nan, 2 ** 31, 2 ** 63, 2 ** 63 - 1,
          -2 ** 63, "", " ", "x", "euler", "euler@1/2", "euler@", "euler@0", "euler@-1", "euler@1e999999999", "dopri5@1e-99999999",
          "euler@inf", "rk4@nan", "euler@1e-300", "é", "../x", "a\0b", "x" * 3000, [], [[]], [-1], [0], [1, 1], [1, 2], [True],
          [math.nan], [math.inf], [1e308], ["x"], ["euler@1/2"], [""], ["rk4@1/8", 3], {}, {"kind": 3}, {"kind": "x"},
          {"kind": "depth"}, {"kind": "step", "check_every": 0}, {"kind": "depth", "low": 0, "high": 1},
          {"kind": "depth", "low": 1, "high": 2 ** 62}, date(2020, 1, 1), [{}], [{"lr": -1}], [{"grid": [{}]}]]
INNER = ["kind", "low", "high", "log", "seed", "weight", "spread", "solvers", "first", "last", "test_solver", "check_every", "target",
         "threshold", "tol", "max_steps", "min_tol", "max_tol", "depth", "model", "window"]


def _mutated(rng):
    "A table of experiments with one to three mistakes, and the names of what was changed."
    table = copy.deepcopy(rng.choice(TABLES))
    names = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        inner = [name for name in ("draw", "adaptation") if isinstance(table.get(name), dict)]
        if inner and rng.random() < .5:
            place = rng.choice(inner)
            key = rng.choice([*table[place], *INNER])
            table[place][key] = rng.choice(VALUES)
            names += [key, place]
        elif rng.random() < .15:
            key = rng.choice(list(table))
            del table[key]
            names.append(key)
        elif rng.random() < .1:
            key = rng.choice(FIELDS) + rng.choice("sx_")
            table[key] = rng.choice(VALUES)
            names.append(key)
        else:
            key = rng.choice(FIELDS)
            table[key] = rng.choice(VALUES)
            names.append(key)
    return table, names


def _configuration(scene, rng, i, folder):
    "What cannot be trained is refused before anything runs, with the name of the field; the rest runs."
    table, names = _mutated(rng)
    partner = {"test_methods": "test_factors", "test_factors": "test_methods", "scheme": "nfe", "nfe": "scheme"}
    also = [partner[name] for name in names if name in partner]
    text = tomli_w.dumps(table)
    names = [*names, *also, "train_solver", "solver"] if {"draw", "adaptation", "scheme"} & {*names, *table} else [*names, *also]
    found, fate = refused(lambda: expand(tomllib.loads(text)), *names)
    if fate == "refused":
        return fate
    for one in found[:2]:
        check_same(experiment.from_toml(to_toml(one)), one, f"another experiment after writing and reading: {table}")
    one = found[0]
    if one.channels > 64 or one.batch_size > 512 or len(one.seeds) > 4:
        return "right"
    errors = (ValueError, TrainingError, SolveError)
    _, fate = refused(lambda: experiment.rehearse(one), by=errors)
    return fate


# Spellings of solvers

PIECES = ["euler", "rk4", "dopri5", "fehlberg2", "midpoint", "@", "@@", "/", "1", "0", "-", "+", ".", "e", "E", "9", "99999", "=", ",",
          "h", "tol", "rtol", "atol", " ", "inf", "nan", "_", "1e-3", "1/16", "1e400", "1e-400", "é", "٣", "1_0", "0x10", "\n", "²",
          "1e99999999999", "rtol=1e-3,atol=1e-6", "h=1/8", "tol=", "%s", "\0", "(1)", "1j", "None", "True"]


def _spelling(scene, rng, i, folder):
    "A solver is read as what it says, or refused; never slowly."
    if rng.random() < .6:
        text = rng.choice([*TABLEAUS]) + "@" + "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 4)))
    else:
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 6)))
    begun = time.process_time()
    found, fate = refused(lambda: Solver.parse(text))
    spent = time.process_time() - begun
    assert spent < 1, f"{text!r} took {spent:.1f} s"
    if fate == "right":
        check_same(Solver.parse(str(found)), found, f"{text!r} is read as {found}, which is read as another one")
        numbers = [number for number in (found.step_size, found.tol, found.rtol, found.atol) if number is not None]
        if not numbers or not all(0 <= number < math.inf for number in numbers) or max(numbers) == 0:
            raise SilentlyWrong(f"{text!r} was read as {found!r}")
        value = text.strip().partition("@")[2]
        try:
            plain = float(Fraction(value))
        except (ValueError, ZeroDivisionError, OverflowError):
            return fate
        if plain not in numbers:
            raise SilentlyWrong(f"{text!r} was read as {found!r}")
    return fate


# Command lines

WORDS = ["", "-1", "0", "1e308", "nan", "inf", "-inf", "é", "99999999999999999999", "1.5", "true", "--", "-", "--x", "../../x", "/dev/null",
         "/", "\n", "None", "1/0", "euler@1/2", "a" * 400, "--help", "[]", "*", "~nobody/x"]


def _typo(word, rng):
    "A word with a mistake in it."
    act = rng.randrange(5)
    place = rng.randrange(len(word)) if word else 0
    if act == 0:
        return word[:place] + word[place + 1:]
    if act == 1:
        return word[:place] + rng.choice("abcxyz019-=@/. ") + word[place:]
    if act == 2 and len(word) > 1:
        return word[:place] + word[place:][::-1]
    return rng.choice(WORDS)


def _command_line(scene, rng, i, folder):
    "A command with a mistake says in a sentence what it is, and changes nothing of what is there."
    store = scene[0]
    (folder / "sweep.toml").write_text(to_toml(SMALL).replace("iterations = 40", "iterations = 2"))
    small = ["--iterations", "2", "--channels", "2", "--batch-size", "8", "--device", "cpu"]
    commands = [
        ["train", "sphere2", "--solver", "euler@1/2", *small, "--out", folder / "new"],
        ["train", "sphere2", "--solver", "midpoint@1/2", "--depth", "1-3", "--adapt", "controller", *small, "--out", folder / "new"],
        ["train", "image_folder", "--root", folder, "--solver", "euler@1/2", *small, "--out", folder / "new"],
        ["swap", store / SMALL.name, "--solver", "rk4@1/4", "--device", "cpu"],
        ["status", store], ["collect", store, "--out", folder / "table.csv"],
        ["sweep", folder / "sweep.toml", "--out", folder / "store", "--jobs", "1", "--dry-run"],
        ["audit", store / SMALL.name, "--member", "0"], ["reproduce", "figure-4", "--quick", "--out", folder / "r", "--jobs", "0"],
    ]
    words = [str(word) for word in rng.choice(commands)]
    changed = rng.randrange(len(words))
    act = rng.random()
    if act < .7:
        words[changed] = _typo(words[changed], rng)
    elif act < .85:
        del words[changed]
    else:
        words.insert(changed, rng.choice(WORDS))
    before = contents(store, but=(".lock",)), contents(folder)
    words = [word.replace("\0", "") for word in words]
    import os
    here = os.getcwd()
    (folder / "here").mkdir()
    os.chdir(folder / "here")
    try:
        status, said = run_command(folder / "log", *words)
    finally:
        os.chdir(here)
    assert status in (0, 1, 2, 4), f"{words}: {status}: {said[-500:]}"
    if status == 2:
        assert len(said.strip()) > 10, f"{words}: {said!r}"
    check_kept(before[0], contents(store))
    check_kept(before[1], contents(folder))
    return "refused" if status == 2 else "right"


KINDS = [
    Kind("configurations with mistakes", "refused before anything runs, by the name of a field", 400, 50, _configuration, limit=60.),
    Kind("spellings of solvers", "read as what they say, or refused, within a second", 400, 60, _spelling, limit=20.),
    Kind("command lines with mistakes", "one message, status 2; nothing is overwritten", 60, 4, _command_line, finished),
]
