"""No verdict on a field that hides something may be wrong: a part of the suite here, all of it in `results/audit_suite.csv`.

`python benchmarks/audit_suite.py` makes the table. The truth is that of an independent solve (see `adversaries.py`).
"""
import pandas as pd
import pytest
from adversaries import ADVERSARIES, TOLERANCE, check, limit
from house import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")
SETTLED = {"pendulum, rk4 10": "ODE", "sin, rk4 8": "ODE", "sin, dopri5": "ODE", "wild, euler 4": "ResNet", "six turns, dopri5": "ODE",
           "fast decay, euler 16": "ResNet", "step_t, dopri5": "ODE", "lorenz, euler 200": "ResNet"}
HERE = [a for a in ADVERSARIES if a.name in {*SETTLED, "jump_t, fehlberg2"} or a.kind in ("pulse", "outlier", "stepped by hand", "on the boundary")
        or a.name in ("wave 192, euler 8", "clock 128, euler 8", "Fourier features, rk4 16", "sign, euler 16", "relu, rk4 8")]


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(ROOT / "results" / "audit_suite.csv")


@pytest.mark.parametrize("adversary", HERE, ids=lambda a: f"{a.name} ({a.kind})")
def test_no_verdict_is_wrong(adversary):
    row, report = check(adversary, 300)
    assert row["verdict"] in ("undecided", row["truth"]), f"{row['flips']:.1%} truly flip\n{report}"
    assert row["verdict"] == SETTLED.get(adversary.name, row["verdict"]), f"\n{report}"
    assert row["wrong"] <= .01 * max(row["certified"], 100), f"{row['wrong']} of {row['certified']} certified truly flip\n{report}"
    assert row["passes"] <= report.settings["cost"]["limit"], row["passes"]


def test_the_stored_suite_holds_every_adversary(table):
    assert table.name.tolist() == [a.name for a in ADVERSARIES]
    assert len(table) >= 16 and table.kind.nunique() >= 10 and (table.n == 2000).all()


def test_no_stored_verdict_is_wrong(table):
    certain = table[table.verdict != "undecided"]
    assert (certain.verdict == certain.truth).all(), certain[certain.verdict != certain.truth]
    assert ((table.flips > TOLERANCE) == (table.truth == "ResNet")).all()
    assert (table.verdict == "undecided").mean() < .4


def test_certified_predictions_keep_the_promise(table):
    "At most 1 % truly flip, as the upper end of a one-sided 95 % interval, of all and of every kind that has certificates."
    for kind, rows in [("all", table), *table.groupby("kind")]:
        assert limit(rows.wrong.sum(), rows.certified.sum()) <= .01, (kind, rows.wrong.sum(), rows.certified.sum())
    assert table.certified.sum() > 20_000
