"""A scheme is a value: written, read, compared, hashed, and checked before anything runs."""
import json
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings, strategies as st

from neuralode_resnet.datasets import load
from neuralode_resnet.experiments import Experiment, from_toml, to_toml
from neuralode_resnet.experiments.reproductions import grids_of
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.training import fit
from neuralode_resnet.valid_training import Scheme, named_schemes, scheme_from
from neuralode_resnet.valid_training.schemes import ADAPTERS, DRAWS

NAMED = named_schemes()
RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("write, read", [(tomli_w.dumps, tomllib.loads), (json.dumps, json.loads)], ids=["TOML", "JSON"])
def test_a_scheme_is_read_back_equal(name, write, read):
    again = scheme_from(read(write(NAMED[name].to_dict())))
    assert again == NAMED[name]
    assert hash(again) == hash(NAMED[name])
    assert again.name == NAMED[name].name


@pytest.mark.parametrize("name", NAMED)
def test_an_experiment_carries_any_scheme(name):
    scheme = NAMED[name]
    experiment = Experiment("sphere2", scheme.solver, ["rk4@1/64"], draw=scheme.draw, adaptation=scheme.adaptation)
    assert experiment.scheme == scheme
    assert from_toml(to_toml(experiment)) == experiment
    assert from_toml(to_toml(experiment)).name == experiment.name


def test_different_schemes_have_different_experiments():
    schemes = {scheme for name, scheme in NAMED.items() if name not in ("recommended", "paper")}
    names = {Experiment("sphere2", s.solver, ["rk4@1/64"], draw=s.draw, adaptation=s.adaptation).name for s in schemes}
    assert len(schemes) == len(names) == 26 + 5


@pytest.mark.parametrize("target", ["figure-4", "supplement-fixed-step", "supplement-adaptive", "supplement-adjoint"])
def test_finished_runs_keep_their_names(target):
    for name, experiments in grids_of(target).items():
        assert {experiment.name for experiment in experiments} == set(pd.read_csv(RESULTS / f"{name}.csv").run)


@pytest.mark.parametrize("adaptation, name", [
    ({"kind": "step"}, "sphere2_euler_1-16_cd92101e48"),
    ({"kind": "step", "check_every": 50, "grow": 2}, "sphere2_euler_1-16_02724e8d31"),
])
def test_the_paper_s_tables_are_hashed_as_they_were_written(adaptation, name):
    assert Experiment("sphere2", "euler@1/16", ["rk4@1/16"], adaptation=adaptation).name == name


def test_the_order_of_keys_and_defaults_do_not_matter():
    short = Scheme("rk4@0.25", {"high": 6, "low": 2, "kind": "depth"})
    full = Scheme("rk4@1/4", {"kind": "depth", "low": 2, "high": 6, "log": False, "seed": 0})
    assert short == full
    assert len({short, full}) == 1


def test_a_table_that_is_changed_later_does_not_change_the_scheme():
    solvers = ["euler@1/4", "rk4@1/2"]
    draw = {"kind": "method", "solvers": solvers}
    scheme = Scheme("euler@1/4", draw)
    solvers.append("rk4@1/8")
    draw["seed"] = 7
    assert scheme.draw == {"kind": "method", "solvers": ["euler@1/4", "rk4@1/2"], "seed": 0}


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-3, 10 ** 20), st.floats(), st.text(max_size=5),
                   st.lists(st.text(max_size=5), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=1))
KEYS = ["low", "high", "log", "seed", "solvers", "spread", "weight", "factor", "first", "last", "test_solver", "check_every",
        "threshold", "shrink", "grow", "max_steps", "target", "tol", "min_tol", "max_tol", "other"]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(kind=st.sampled_from([*DRAWS, *ADAPTERS, "none"]), table=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
       solver=st.sampled_from(["euler@1/4", "dopri5@1e-3", "rk4@1/2"]))
def test_any_table_is_a_scheme_or_one_message(kind, table, solver):
    for field in ("draw", "adaptation"):
        try:
            scheme = Scheme(solver, **{field: {"kind": kind, **table}})
        except ValueError:
            continue
        assert scheme_from(tomllib.loads(tomli_w.dumps(scheme.to_dict()))) == scheme


def test_every_training_gets_new_callbacks():
    data = load("sphere2", seed=0)
    scheme = NAMED["midpoint-controller-and-depth-1-percent"]
    model = NeuralODE.for_data(data, scheme.solver, channels=4)
    first, second = (scheme.make_callbacks(model, 10, data.x_train[:128]) for _ in range(2))
    assert first["steps"] is not second["steps"]
    assert first["callbacks"][0] is not second["callbacks"][0]
    assert first["callbacks"][0].depth is first["steps"]
    fit(model, data, 10, progress=False, **first)
    assert second["steps"].generators is None


def test_a_refinement_ends_with_the_training():
    scheme = Scheme("euler@1/2", {"kind": "coarse_to_fine", "first": 2, "last": 16})
    data = load("sphere2", seed=0)
    for iterations in (8, 40):
        model = NeuralODE.for_data(data, scheme.solver, channels=4)
        callbacks = scheme.make_callbacks(model, iterations, data.x_train[:128])
        history = fit(model, data, iterations, progress=False, **callbacks)
        assert history.nfe.iloc[0] == 2
        assert history.nfe.iloc[-1] == 16
