"""One protocol for all schemes: costs are exact, rows keep their names, what is measured is not measured again."""
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from neuralode_resnet.datasets import load
from neuralode_resnet.experiments.protocol import (
    Protocol, compare, find_valid_nfe, judge_training, measure_scheme, plan_beyond, train_scheme,
)
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.solver_swap import predict, swapped
from neuralode_resnet.training import fit
from neuralode_resnet.valid_training import RandomDepth, Scheme, ValidityController, fixed_step_schemes, tolerance_schemes

SHORT = Protocol(load("sphere2", seed=0), k=8, iterations=60, lr=3e-3, channels=8, finest=32)
SCHEMES = {scheme.name: scheme for scheme in fixed_step_schemes(8)}


def test_the_stored_rows_have_the_names_of_the_registry(pytestconfig):
    stored = pd.read_csv(pytestconfig.rootpath / "results" / "beyond.csv").training.unique()
    assert set(stored) == {scheme.name for scheme in fixed_step_schemes(16) + tolerance_schemes()}


def test_a_scheme_trains_what_its_callbacks_would_by_hand():
    data = SHORT.data
    model, history, controller = train_scheme(SHORT, SCHEMES["midpoint, controller and depth"], [0, 1])
    by_hand = NeuralODE.for_data(data, "midpoint@1/4", 8, seed=[0, 1])
    depth = RandomDepth(1, 7)
    same = ValidityController(by_hand, "rk4", target=.03, depth=depth)
    same.start(by_hand.for_members(data.x_train[:128]))
    expected = fit(by_hand, data, 60, 128, 3e-3, [0, 1], steps=depth, callbacks=[same], progress=False)
    assert history.equals(expected)
    assert controller.history.equals(same.history)
    assert all(map(torch.equal, model.parameters(), by_hand.parameters()))


@pytest.mark.parametrize("name, nfe", [("fixed", 8), ("midpoint, fixed", 8), ("random method", 8), ("penalty", 12)])
def test_schemes_of_fixed_cost_cost_it(name, nfe):
    rows = measure_scheme(SHORT, SCHEMES[name], [0, 1])
    assert rows.nfe.tolist() == [nfe, nfe]
    assert rows.training.tolist() == [name, name]
    assert rows.late_violations.isna().all()


def test_checks_are_counted():
    rows = measure_scheme(SHORT, SCHEMES["midpoint, controller"], [0])
    _, history, adapter = train_scheme(SHORT, SCHEMES["midpoint, controller"], [0])
    checks = adapter.history.nfe.sum()
    assert checks > 0
    assert rows.nfe.item() == pytest.approx(history.nfe.mean() + checks / 60)


def test_alone_or_together_a_seed_has_the_same_cost():
    together = measure_scheme(SHORT, SCHEMES["random depth"], [0, 1])
    alone = measure_scheme(replace(SHORT, together=False), SCHEMES["random depth"], [0, 1])
    assert together.nfe.tolist() == pytest.approx(alone.nfe.tolist(), rel=1e-6)  # means of float32


def test_valid_nfe_is_the_coarsest_from_which_on_all_agree():
    model = NeuralODE.for_data(SHORT.data, "euler@1/8", seed=[0, 1])
    for weight in model.block.field.parameters():
        weight.data *= 2.5
    x = SHORT.data.x_test
    with swapped(model, "rk4@1/64"):
        reference = predict(model, x)[0]
    agree = {}
    for n in (1, 2, 4, 8, 16):
        with swapped(model, f"rk4@1/{n}"):
            agree[n] = (predict(model, x)[0] == reference).double().mean(-1) >= .99
    found = find_valid_nfe(model, x, reference, 16)
    for i, nfe in enumerate(found):
        disagree = [n for n in agree if not agree[n][i]]
        coarsest = 2 * max(disagree) if disagree else 1
        assert (nfe == 4 * coarsest) if coarsest <= 16 else math.isnan(nfe)
    assert max(found) > 4  # there was something to find


def test_a_coarser_solve_that_agrees_by_accident_does_not_count(monkeypatch):
    model = NeuralODE.for_data(SHORT.data, "euler@1/8")
    reference = torch.zeros(1, 100, dtype=torch.long)

    def predict_of(model, x):
        agrees = model.block.solvers[0].n_steps() != 4
        return (reference if agrees else 1 - reference,)

    monkeypatch.setattr("neuralode_resnet.experiments.protocol.predict", predict_of)
    assert find_valid_nfe(model, SHORT.data.x_test[:100], reference, 16) == [4 * 8]


def test_a_failed_solve_flips():
    model = NeuralODE.for_data(SHORT.data, "euler@1/8")
    for weight in model.block.field.parameters():
        weight.data.fill_(math.nan)
    assert judge_training(SHORT, model).flips.tolist() == [1.]


def test_rows_that_are_there_are_not_measured_again(tmp_path):
    path = tmp_path / "rows.csv"
    fixed = SCHEMES["fixed"]
    compare(SHORT, [fixed], path, [0])
    before = path.read_text()
    stamp = path.stat().st_mtime_ns
    compare(SHORT, [fixed], path, [0])
    assert path.stat().st_mtime_ns == stamp
    rows = compare(SHORT, [fixed, SCHEMES["penalty"]], path, [0])
    assert rows.training.tolist() == ["fixed", "penalty"]
    assert path.read_text().startswith(before)


def test_the_command_reproduces_the_primary_comparison(tmp_path, monkeypatch):
    from neuralode_resnet.cli.sweeps import reproduce_command
    asked = []
    monkeypatch.setattr("neuralode_resnet.experiments.protocol.reproduce_beyond", lambda *given: asked.append(given))
    reproduce_command("beyond", tmp_path / "new", quick=True)
    reproduce_command("beyond", tmp_path / "new")
    assert asked == [(tmp_path / "new" / "beyond_primary_quick.csv", 100), (tmp_path / "new" / "beyond_primary.csv", 10_000)]


def test_the_stored_pairs_are_those_that_were_declared(pytestconfig):
    rows = pd.read_csv(pytestconfig.rootpath / "results" / "beyond_primary.csv")
    planned = {(b.data, b.data_seed, seed, b.training) for b in plan_beyond() for seed in b.seeds}
    assert set(zip(rows.data, rows.data_seed, rows.seed, rows.training)) <= planned
    assert rows.commit.nunique() == 1


def test_seeds_that_are_missing_are_added(tmp_path):
    path = tmp_path / "rows.csv"
    compare(SHORT, [SCHEMES["fixed"]], path, [0])
    rows = compare(SHORT, [SCHEMES["fixed"]], path, [0, 2])
    assert rows.seed.tolist() == [0, 2]


def test_another_draw_of_the_data_is_another_row(tmp_path):
    path = tmp_path / "rows.csv"
    compare(SHORT, [SCHEMES["fixed"]], path, [0])
    rows = compare(replace(SHORT, data_seed=5), [SCHEMES["fixed"]], path, [0])
    assert rows.data_seed.tolist() == [0, 5]


def test_a_scheme_without_a_name_is_not_filed(tmp_path):
    with pytest.raises(ValueError, match="has no name"):
        compare(SHORT, [Scheme("rk4@1/4")], tmp_path / "rows.csv")
    with pytest.raises(ValueError, match="the same name"):
        compare(SHORT, [SCHEMES["fixed"]] * 2, tmp_path / "rows.csv")
    assert not (tmp_path / "rows.csv").exists()
