"""Records are judged by hand arithmetic, and drawn whatever methods they hold."""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from neuralode_resnet.experiments.records import find_critical, judge_records, plot_gaps, plot_swaps, swap_legends
from neuralode_resnet.solvers import TABLEAUS, Solver, Tableau


def rows_of(train, seed, **accuracies):
    "Records of one model; keys are methods, with `_fine` at half the step."
    rows = []
    h = Solver.parse(train).step_size
    for key, accuracy in accuracies.items():
        method = key.removesuffix("_fine")
        solver = Solver(method, h / 2 if key.endswith("_fine") else h)
        rows.append(dict(train_solver=train, seed=seed, test_solver=str(solver), test_method=method,
                         step_size=solver.step_size, tol=np.nan, accuracy=accuracy))
    return pd.DataFrame(rows)


@pytest.fixture
def user_method():
    TABLEAUS["ssp3"] = Tableau("ssp3", order=3, a=((), (1.,), (1/4, 1/4)), b=(1/6, 1/6, 2/3))
    yield "ssp3"
    del TABLEAUS["ssp3"]
    plt.close("all")


def test_the_best_solver_has_the_highest_order_then_the_smallest_step():
    records = rows_of("euler@1/4", 0, euler=.95, euler_fine=.9, midpoint_fine=.8, rk4=.7, rk4_fine=.6)
    row, = judge_records(records).to_dict("records")
    assert row["best_solver"] == "rk4@1/8"
    assert row["gap"] == pytest.approx(.35)
    assert not row["valid"]


@pytest.mark.parametrize("best, valid", [(.9, True), (.899, False), (1., True)])
def test_a_gap_of_exactly_a_tenth_is_valid(best, valid):
    table = judge_records(rows_of("euler@1/4", 0, euler=1., rk4_fine=best))
    assert table.valid.tolist() == [valid]


def test_a_seed_that_has_not_learnt_decides_nothing():
    records = pd.concat([rows_of("euler@1/4", 0, euler=1., rk4=.95), rows_of("euler@1/4", 1, euler=.8, rk4=.5)])
    found = find_critical(judge_records(records)).set_index("seed")
    assert 1 not in found.index
    assert np.isnan(found.coarse["mean"])
    assert found.fine["mean"] == 4


def test_a_method_of_a_user_is_drawn_as_test_and_as_training_solver(user_method):
    tested = rows_of("euler@1/4", 0, euler=1., ssp3=.95)
    trained = rows_of("ssp3@1/4", 0, ssp3=1., ssp3_fine=.95)
    for records in (tested, trained):
        ax = swap_legends(plot_swaps(records), records)
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert user_method in labels


def test_a_seed_without_a_mark_in_the_legend_is_hollow():
    records = pd.concat([rows_of("euler@1/4", 0, euler=1., rk4=.95), rows_of("euler@1/4", 1, euler=.8, rk4=.5)])
    ax = plot_gaps(judge_records(records))
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [line.get_ydata().tolist() for line in hollow] == [[pytest.approx(.3)]]
    plt.close(ax.figure)
