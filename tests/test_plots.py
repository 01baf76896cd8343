"""Plots where a notebook would say it badly: other processes, every function, tensors with a graph, frames that lack something."""
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from neuralode_resnet import plots  # noqa: E402
from neuralode_resnet.solvers.tableaus import TABLEAUS  # noqa: E402

H = np.array([.5, .25, .125])
ACCURACY = pd.DataFrame(dict(method="euler", step_size=H, tol=np.nan, n_steps=[2, 4, 8], nfe=[2, 4, 8], accuracy=[.6, .7, .8]))
HISTORY = pd.DataFrame(dict(iteration=range(100), loss=np.linspace(1, .1, 100), accuracy=np.linspace(.5, 1, 100)))
ORDERS = pd.DataFrame(dict(method="euler", order=1, step_size=H, error=H))
FRAMES = {plots.plot_accuracy: ACCURACY, plots.plot_history: HISTORY, plots.plot_orders: ORDERS}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_every_method_of_the_package_has_an_entry():
    assert sorted(plots.METHOD_COLORS) == sorted(TABLEAUS)
    assert sorted(plots.METHOD_MARKERS) == sorted(TABLEAUS)


def test_an_unknown_method_looks_the_same_in_another_process():
    code = "from neuralode_resnet.plots import method_look; print(method_look('ralston'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(plots.method_look("ralston"))


def test_no_unknown_method_looks_like_a_known_one_or_like_another():
    looks = [plots.method_look(f"method {i}") for i in range(200)]
    assert len({tuple(look.values()) for look in looks}) == 200
    known = set(plots.METHOD_MARKERS.values())
    assert not known & {look["marker"] for look in looks}


def test_a_look_is_a_copy_that_cannot_change_the_table():
    plots.method_look("euler")["color"] = "black"
    assert plots.method_look("euler")["color"] == plots.METHOD_COLORS["euler"] != "black"


@pytest.mark.parametrize("x", ["step_size", "n_steps", "nfe"])
def test_points_stand_where_the_frame_says(x):
    ax = plots.plot_accuracy(ACCURACY, x=x)
    line = next(line for line in ax.lines if line.get_label() == "euler")
    drawn = sorted(map(tuple, line.get_xydata()))
    assert drawn == sorted(zip(ACCURACY[x], ACCURACY["accuracy"]))


def test_the_ring_is_on_the_training_method_only():
    both = pd.concat([ACCURACY, ACCURACY.assign(method="rk4", accuracy=.9)])
    ax = plots.plot_accuracy(both, .25, train_method="euler")
    rings = [line.get_xydata().tolist() for line in ax.lines if line.get_markersize() == 10]
    assert rings == [[[.25, .7]]]


def test_members_are_thin_lines_around_their_mean():
    members = pd.concat([ACCURACY.assign(member=i, accuracy=ACCURACY.accuracy + .1 * i) for i in range(2)])
    ax = plots.plot_accuracy(members)
    *thin, mean = ax.lines
    assert len(thin) == 2
    assert np.allclose(mean.get_ydata(), sum(line.get_ydata() for line in thin) / 2)


@pytest.mark.parametrize("draw", FRAMES, ids=lambda draw: draw.__name__)
def test_a_missing_column_is_named_with_those_that_are_there(draw):
    frame = FRAMES[draw]
    lacking = frame.drop(columns=[*frame.columns][-1])
    with pytest.raises(ValueError, match=f"{[*frame.columns][-1]} is missing; there are {', '.join(lacking)}"):
        draw(lacking)


@pytest.mark.parametrize("draw", FRAMES, ids=lambda draw: draw.__name__)
def test_an_empty_frame_is_refused(draw):
    with pytest.raises(ValueError, match="no rows"):
        draw(FRAMES[draw][:0])


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, lambda a: torch.tensor(a, requires_grad=True)],
                         ids=["array", "tensor", "tensor with a graph"])
def test_arrays_and_tensors_are_drawn_alike(kind):
    path = np.random.default_rng(0).normal(size=(3, 5, 1, 2))
    y = np.array([0, 1, 0, 1, 1])
    ax = plots.plot_trajectories(kind(path), y)
    drawn = {tuple(np.ravel(line)) for line in ax.collections[0].get_segments()}
    assert drawn == {tuple(np.ravel(path[:, i])) for i in range(5)}


@pytest.mark.parametrize("nodes", [[0.], [0., .5, .5], [0., .5, .4], [[0., 1.]], [0., np.nan]])
def test_nodes_that_are_not_monotone_are_refused(nodes):
    with pytest.raises(ValueError, match="pass solution.t"):
        plots.plot_steps(nodes)


def test_backward_nodes_have_positive_sizes():
    ax = plots.plot_steps(torch.tensor([1., .5, 0.]))
    assert ax.lines[-1].get_ydata().tolist() == [.5, .5]


@pytest.mark.parametrize("error", [0., -1., np.nan])
def test_an_error_without_a_logarithm_is_refused(error):
    with pytest.raises(ValueError, match="errors must be positive"):
        plots.slope([.5, .25], [1e-3, error])
