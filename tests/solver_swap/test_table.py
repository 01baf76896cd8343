"""Which solvers a table tests, and what it says of them."""
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch import nn

from neuralode_resnet.datasets import Data, load
from neuralode_resnet.models import NeuralODE, ODEBlock, member
from neuralode_resnet.solver_swap import swap_grid
from neuralode_resnet.solver_swap import table as table_room
from neuralode_resnet.solver_swap.table import better_solvers, verdict_table
from neuralode_resnet.solvers import TABLEAUS, Solver, Tableau


@pytest.fixture(scope="module")
def data():
    return load("sphere2", n_train=64, n_test=200, seed=0)


class Decay(nn.Module):
    "z' = -3 z: one step of Euler changes the sign of every state, no better solver does."
    def forward(self, t, z):
        return -3 * z


def sign_model():
    head = nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor([[1.], [-1.]])
    x = torch.linspace(-1, 1, 40)[:, None]
    y = (x[:, 0] > 0).long()
    return NeuralODE(ODEBlock(Decay(), "euler@1"), head), Data("line", x, y, x, y, n_classes=2)


@pytest.mark.parametrize("solver, expected", [
    ("euler@1/2", ["euler@1/4", "euler@1/8", "rk4@1/2"]),
    ("midpoint@1/2", ["midpoint@1/4", "midpoint@1/8", "rk4@1/2"]),
    ("heun@1/2", ["heun@1/4", "heun@1/8", "rk4@1/2"]),
    ("bosh3@1/2", ["bosh3@1/4", "bosh3@1/8", "rk4@1/2"]),
    ("rk4@1/2", ["rk4@1/4", "rk4@1/8", "dopri5@1/2"]),
    ("heun_euler@0.01", ["heun_euler@0.001", "heun_euler@0.0001", "dopri5@0.001"]),
    ("dopri5@0.01", ["dopri5@0.001", "dopri5@0.0001"]),
])
def test_the_test_solvers_of_the_built_in_methods(solver, expected):
    assert [str(better) for better in better_solvers(solver)] == expected


@pytest.mark.parametrize("method", TABLEAUS)
def test_no_test_solver_is_coarser_or_of_lower_order(method):
    solvers = [Solver(method, 1/4)]
    if TABLEAUS[method].adaptive:
        solvers.append(Solver(method, tol=1e-3))
    for own in solvers:
        for better in better_solvers(own):
            refined = better.method == method
            assert refined or better.tableau.order > own.tableau.order, f"{own} is tested with {better}"
            accuracy, finer = (own.step_size, better.step_size) if own.fixed else (own.tol, better.tol)
            assert finer < accuracy or finer == accuracy and not refined, f"{own} is tested with {better}"


def test_different_tolerances_stay_different():
    own = Solver("bosh3", rtol=1e-2, atol=1e-4)
    assert [(better.rtol, better.atol) for better in better_solvers(own)] == [(1e-3, 1e-5), (1e-4, 1e-6), (1e-3, 1e-5)]


def test_a_users_method_of_higher_order_is_found():
    dopri5 = TABLEAUS["dopri5"]
    mine = Tableau("mine", 5, dopri5.a, dopri5.b, error=dopri5.error, mid=dopri5.mid)
    others = {name: tableau for name, tableau in TABLEAUS.items() if name != "dopri5"}
    with patch.dict(TABLEAUS, others | {"mine": mine}, clear=True):
        assert str(better_solvers("rk4@1/4")[-1]) == "mine@1/4"
        assert str(better_solvers("bosh3@0.01")[-1]) == "mine@0.001"
        assert len(better_solvers("mine@0.01")) == 2


def test_only_a_method_with_an_error_estimate_follows_a_tolerance():
    others = {name: tableau for name, tableau in TABLEAUS.items() if name != "dopri5"}
    with patch.dict(TABLEAUS, others, clear=True):
        assert [better.method for better in better_solvers("bosh3@0.01")] == ["bosh3", "bosh3"]


def test_a_model_made_of_its_solvers_error_is_not_valid():
    table = verdict_table(*sign_model())
    assert table.accuracy.tolist() == [1, 0, 0, 0]
    assert table.verdict.tolist() == ["trained with"] + ["not valid"] * 3


def test_numbers_are_those_of_the_grid(data):
    model = NeuralODE.for_data(data, "euler@1/2", seed=[0, 1])
    table, grid = verdict_table(model, data, ["rk4@1/8"]), swap_grid(model, data, ["euler@1/2", "rk4@1/8"])
    for column in ("member", "n_steps", "nfe", "accuracy", "agreement"):
        assert table[column].tolist() == grid[column].tolist()
    assert table.test_solver.tolist() == grid.solver.tolist()


def test_the_training_solver_stands_first_and_once(data):
    model = NeuralODE.for_data(data, "euler@1/2")
    table = verdict_table(model, data, ["rk4@1/8", "euler@1/2", "rk4@1/8"])
    assert table.test_solver.tolist() == ["euler@1/2", "rk4@1/8"]


def test_members_with_solvers_of_their_own_are_judged_by_their_own(data):
    pair = NeuralODE.for_data(data, "euler@1/2", seed=[0, 1])
    pair.block.solver = ["euler@1/2", "euler@1/3"]
    table = verdict_table(pair, data)
    for i in (0, 1):
        alone = verdict_table(member(pair, i), data)
        assert table[table.member == i].drop(columns="member").reset_index(drop=True).equals(alone)


@pytest.mark.parametrize("precision, cause, expected", [
    ("fp32", "rounding", "not valid"),   # nothing is rounded, so nobody asks
    ("bf16", "rounding", "rounding"), ("tf32", "rounding", "rounding"),
    ("bf16", "solver", "not valid"),
])
def test_rounding_is_blamed_only_where_the_control_blames_it(monkeypatch, precision, cause, expected):
    model, line = sign_model()
    model.block.field.precision = precision
    asked = []
    def control(model, x, y, solver):
        asked.append(str(solver))
        return SimpleNamespace(verdict=cause)
    monkeypatch.setattr(table_room, "rounded_validity", control)
    assert verdict_table(model, line, ["rk4@1"]).verdict.tolist() == ["trained with", expected]
    assert asked == ([] if precision == "fp32" else ["rk4@1.0"])
