"What results/zoo.csv says is confirmed by solves that are not the audit's, and follows from its own numbers."
from pathlib import Path

import pandas as pd
import pytest

from neuralode_resnet.audit.evidence import share_interval
from neuralode_resnet.zoo import FAMILIES, format_rows, read_rows, summarise_rows

ROWS = pd.read_csv(Path(__file__).parents[2] / "results" / "zoo.csv")
NAMES = [f"{row['name']}, seed {row.seed}" for _, row in ROWS.iterrows()]


@pytest.fixture(params=range(len(ROWS)), ids=NAMES)
def row(request):
    return ROWS.iloc[request.param]


def test_the_share_and_its_interval_follow_from_the_counts(row):
    low, high = share_interval(int(row.changed), int(row.n))
    assert row.share == pytest.approx(row.changed / row.n, abs=1e-5)
    assert (row.low, row.high) == pytest.approx((low, high), abs=1e-5)


def test_a_solve_16_times_finer_confirms_the_share(row):
    k = round(row.fine_share * row.n)
    low, high = share_interval(k, int(row.n))
    assert row.fine_share == pytest.approx(k / row.n, abs=1e-5)
    assert low <= row.high and row.low <= high
    assert row.confirmed


def test_the_finer_solve_is_on_the_side_of_the_verdict(row):
    if row.verdict == "ODE":
        assert row.fine_share < .02
    if row.verdict == "ResNet":
        assert row.fine_share > .02


def test_no_model_was_changed(row):
    assert row.unchanged


def test_every_row_is_of_a_family_as_it_is_written(row):
    family = next(family for family in FAMILIES if family.name == row["name"])
    written = [family.page, family.solver, family.gradient, family.compared, family.score, family.iterations]
    assert [row.page, row.solver, row.gradient, row.compared, row.score, row.iterations] == written


def test_there_are_15_families_and_20_rows():
    assert len({family.trained_as or family.name for family in FAMILIES}) >= 15
    assert len(ROWS) >= 20


def test_the_front_page_shows_every_family_with_the_numbers_of_the_file():
    summary = summarise_rows(read_rows(Path(__file__).parents[2] / "results" / "zoo.csv"))
    shown = format_rows(summary).set_index("family")
    assert list(shown.index) == list(dict.fromkeys(ROWS["name"]))
    for name, rows in ROWS.groupby("name"):
        assert shown.seeds[name] == f"{len(rows)}, {int(rows.confirmed.sum())} confirmed"
        assert set(shown.verdict[name].replace(",", "").split()) & set(rows.verdict) == set(rows.verdict)
