"""The model carries its solver, keeps it through swaps and threads, and comes back from its file."""
import copy
import threading

import pytest
import torch
from torch import nn

from neuralode_resnet.models import CheckpointError, NeuralODE, ODEBlock, load_model, member, save_model
from neuralode_resnet.models.model import MAX_NFE, load_weights, marking_unsolved
from neuralode_resnet.solvers import SolveError


class Data:
    x_train, n_classes = torch.randn(20, 1, 2), 2


class Growth(nn.Module):
    def forward(self, t, z):
        return z


class Square(nn.Module):
    def forward(self, t, z):
        return z**2


def test_max_nfe_is_set_on_block_and_model_and_survives_a_file(tmp_path):
    with pytest.raises(SolveError, match="max_nfe = 9"):
        ODEBlock(Growth(), "rk4@1/16", max_nfe=9)(torch.ones(1, 1))
    model = NeuralODE.for_data(Data, "rk4@1/16", channels=4, max_nfe=80)
    assert model.max_nfe == model.block.max_nfe == 80
    save_model(model, tmp_path / "model.pt")
    assert load_model(tmp_path / "model.pt").max_nfe == 80
    model.max_nfe = 63
    with pytest.raises(SolveError, match="max_nfe = 63"):
        model(Data.x_train)
    save_model(model, tmp_path / "model.pt")
    assert load_model(tmp_path / "model.pt").block.max_nfe == 63
    ensemble = NeuralODE.for_data(Data, "rk4@1/16", channels=4, seed=[0, 1], max_nfe=80)
    assert member(ensemble, 1).max_nfe == 80
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="max_nfe"):
            model.max_nfe = wrong


def test_a_model_with_the_usual_max_nfe_is_described_as_before():
    assert "max_nfe" not in NeuralODE.for_data(Data, "rk4@1/4").config
    assert NeuralODE.for_data(Data, "rk4@1/4").max_nfe == MAX_NFE


@pytest.mark.parametrize("first_out", [0, 1])
def test_overlapping_threads_leave_the_block_its_own_solver(first_out):
    block, own = ODEBlock(Growth(), "euler@1/2"), {}
    inside, may_leave = threading.Barrier(3), [threading.Event(), threading.Event()]

    def work(i, name):
        with block.solving_with(name):
            inside.wait()
            may_leave[i].wait()
            own[i] = block.solver_name

    threads = [threading.Thread(target=work, args=(i, name)) for i, name in enumerate(("rk4@1/4", "heun@1/8"))]
    for thread in threads:
        thread.start()
    inside.wait()
    for i in (first_out, 1 - first_out):
        may_leave[i].set()
        threads[i].join()
    assert own == {0: "rk4@1/4", 1: "heun@1/8"}
    assert block.solver_name == "euler@1/2"


def test_a_worker_inside_a_swap_uses_it_and_nested_swaps_unwind():
    block, seen = ODEBlock(Growth(), "euler@1/2"), []
    with block.solving_with("rk4@1/4"):
        worker = threading.Thread(target=lambda: seen.append(block.solver_name))
        worker.start()
        worker.join()
        with block.solving_with("heun@1/8"):
            assert block.solver_name == "heun@1/8"
        block.solver = "midpoint@1/4"
        assert block.solver_name == "midpoint@1/4"
    assert seen == ["rk4@1/4"] and block.solver_name == "euler@1/2"


def test_copies_and_pickles_own_the_solver_in_use(tmp_path):
    block = ODEBlock(Growth(), "euler@1/2")
    with block.solving_with("rk4@1/4"):
        copied = copy.deepcopy(block)
        torch.save(block, tmp_path / "block.pt")
    loaded = torch.load(tmp_path / "block.pt", weights_only=False)
    assert copied.solver_name == loaded.solver_name == "rk4@1/4" and block.solver_name == "euler@1/2"
    assert torch.equal(loaded(torch.ones(1, 1)), copied(torch.ones(1, 1)))


@pytest.mark.parametrize("solver", ["euler@1/64", "dopri5@1e-4"])
def test_marking_is_off_outside_of_its_block(solver):
    block, x = ODEBlock(Square(), solver), torch.tensor([[0.5], [1e30]])
    with marking_unsolved():
        assert block(x)[0].isfinite() and block.unsolved.tolist() == [False, True]
    with pytest.raises(SolveError):
        block(x)
    assert block(x[:1]).isfinite() and block.unsolved is None


def test_a_block_gives_states_at_times():
    block = ODEBlock(Growth(), "rk4@1/8")
    states = block.solve(torch.ones(2, 1), times=[0.0, 0.5, 1.0]).states
    torch.testing.assert_close(states[:, 0, 0], torch.tensor([0.0, 0.5, 1.0]).exp(), rtol=1e-4, atol=1e-4)


def test_weights_of_another_architecture_are_refused_before_one_is_copied():
    model, other = (NeuralODE.for_data(Data, "rk4@1/4", channels=n) for n in (4, 5))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(CheckpointError, match="another architecture"):
        load_weights(model, other.state_dict(), "other.pt")
    assert all(map(torch.equal, before, model.parameters()))
