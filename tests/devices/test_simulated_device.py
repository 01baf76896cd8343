"""Every public path on a simulated second device, with and without float64: what the CPU finds, to 1e-6.

And budgets: how often an iteration makes the processor wait. A failure names the lines that waited.
"""
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchdiffeq import odeint

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_device import NAME, DeviceError, SimulatedDevice  # noqa: E402

from neuralode_resnet import adaptation, devices, error_fan, valid_training  # noqa: E402
from neuralode_resnet.adaptation.grid_search import grid_search  # noqa: E402
from neuralode_resnet.audit import audit  # noqa: E402
from neuralode_resnet.crossing import crossings, draw_finer, injectivity  # noqa: E402
from neuralode_resnet.datasets import Data, load  # noqa: E402
from neuralode_resnet.models import NeuralODE, load_model, member, save_model  # noqa: E402
from neuralode_resnet.solver_swap import predict, rounded_validity, swap_grid, validity  # noqa: E402
from neuralode_resnet.solver_swap.table import verdict_table  # noqa: E402
from neuralode_resnet.solvers import integrate, problems  # noqa: E402
from neuralode_resnet.training import TrainingError, fit  # noqa: E402
from neuralode_resnet.valid_training import (  # noqa: E402
    CoarseToFine, RandomDepth, RandomEnd, RandomMethod, RandomTolerance, SolverPenalty,
)

DATA = load("sphere2", n_train=128, n_test=60)
OVERFLOWING = Data("overflowing", DATA.x_train, DATA.y_train, torch.full_like(DATA.x_test, 3e38), DATA.y_test, 2)


def make_images():
    draw = torch.Generator().manual_seed(0)
    x_train, x_test = (torch.rand(n, 1, 6, 6, generator=draw) for n in (40, 20))
    return Data("images", x_train, torch.arange(40) % 2, x_test, torch.arange(20) % 2, 2)


IMAGES = make_images()


@pytest.fixture(params=[True, False], ids=["float64", "no float64"])
def device(request):
    with SimulatedDevice(has_float64=request.param) as simulated:
        yield simulated


def make(solver, data=DATA, where=NAME, **options):
    return NeuralODE.for_data(data, solver, channels=8, **options).to(where), data.to(where)


def weights_after(where, solver, data=DATA, iterations=4, steps=None, seed=0, lr=1e-4, **options):
    "Weights on the CPU after a short training."
    model, there = make(solver, data, where, seed=seed, **options)
    fit(model, there, iterations, 8, lr, seed=seed, progress=False, steps=steps and steps())
    return [parameter.detach().cpu() for parameter in model.parameters()]


def assert_same_training(solver, tolerance=1e-6, **options):
    for ours, theirs in zip(weights_after("cpu", solver, **options), weights_after(NAME, solver, **options), strict=True):
        assert (ours - theirs).abs().max() <= tolerance


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("solver", ["euler@1/8", "dopri5@1e-3"])
def test_training_gives_the_weights_of_the_cpu(device, solver, gradient):
    # without float64, torchdiffeq keeps time in float32 and takes other steps in its backward solve
    rounded_time = gradient == "adjoint" and solver.startswith("dopri5") and not device.has_float64
    assert_same_training(solver, 1e-3 if rounded_time else 1e-6, gradient=gradient)


@pytest.mark.parametrize("solver", ["euler@1/8", "dopri5@1e-3"])
def test_the_same_operations_give_the_same_bits(solver):
    # Without native code nothing differs. With it the weights differ by 2e-6 after four iterations of dopri5 at
    # lr = 1e-3: the error estimate cancels, so that the steps that it allows differ by 5e-5 in float32, and Adam, which
    # divides by the size of a gradient, passes on the relative difference of the gradients times lr.
    with SimulatedDevice(folds=False):
        for ours, theirs in zip(*(weights_after(where, solver, lr=1e-3) for where in ("cpu", NAME)), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("lr, tolerance", [(1e-4, 5e-7), (1e-3, 5e-6)])
def test_weights_differ_in_proportion_to_the_learning_rate(device, lr, tolerance):
    assert_same_training("dopri5@1e-3", tolerance, lr=lr)


@pytest.mark.parametrize("solver", ["euler@1/4", "dopri5@1e-3"])
def test_members_train_as_on_the_cpu(device, solver):
    assert_same_training(solver, seed=[0, 1])


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_drawn_depths_train_as_on_the_cpu(device, seed):
    assert_same_training("euler@1/4", seed=seed, steps=lambda: RandomDepth(1, 5))


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_images_train_as_on_the_cpu(device, seed):
    assert_same_training("euler@1/2", data=IMAGES, seed=seed)


@pytest.mark.parametrize("made, solver", [
    (lambda: RandomMethod(["euler@1/4", "midpoint@1/2"]), "euler@1/4"),
    (lambda: RandomTolerance(1e-4, 1e-2), "dopri5@1e-3"),
    (lambda: RandomEnd(.1), "euler@1/4"),
    (lambda: SolverPenalty(.1), "euler@1/4"),
    (lambda: CoarseToFine(1, 2, 4), "euler@1/2"),
])
def test_rivals_train_as_on_the_cpu(device, made, solver):
    assert_same_training(solver, seed=[0, 1], steps=made)


@pytest.mark.parametrize("kind, solver", [
    (adaptation.StepAdapter, "euler@1/4"), (valid_training.ValidityController, "euler@1/4"),
    (adaptation.ToleranceAdapter, "fehlberg2@1e-2"), (valid_training.ToleranceController, "dopri5@1e-3"),
])
def test_adaptation_decides_as_on_the_cpu(device, kind, solver):
    more = {"tol": 1e-2, "min_tol": 1e-4} if "Tolerance" in kind.__name__ else {}
    histories = []
    for where in ("cpu", NAME):
        model, data = make(solver, where=where, seed=[0, 1])
        adapter = kind(model, check_every=2, **more)
        adapter.start(model.for_members(data.x_train[:16]))
        fit(model, data, 2, 16, seed=[0, 1], callbacks=[adapter], progress=False)
        histories.append(adapter.history[["decision", "flips", "nfe", "train_accuracy"]])
    assert histories[0].equals(histories[1]), histories


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_swaps_count_as_on_the_cpu(device, seed):
    (ours, data), (theirs, there) = make("euler@1/4", where="cpu", seed=seed), make("euler@1/4", seed=seed)
    solvers = ["rk4@1/4", "dopri5@1e-3"]
    assert swap_grid(ours, data, solvers).equals(swap_grid(theirs, there, solvers))
    tests = [validity(m, d.x_test, d.y_test, "rk4@1/4") for m, d in ((ours, data), (theirs, there))]
    assert tests[0] == tests[1]
    assert len(verdict_table(theirs, there)) == 4 * (1 if seed == 0 else 2)


def test_a_model_whose_solves_fail_is_tested_all_the_same(device):
    model, data = make("euler@1/4", OVERFLOWING)
    assert swap_grid(model, data, ["rk4@1/4"]).unsolved.tolist() == [60]
    mixed = torch.cat([DATA.to(NAME).x_test, data.x_test])
    assert (predict(model, mixed, 60)[0].cpu() == -1).sum() == 60
    assert validity(model, data.x_test, data.y_test, "rk4@1/4").unsolved == 60


def test_image_fields_are_swapped_and_rounded(device):
    model, data = make("euler@1/4", IMAGES)
    assert rounded_validity(model, data.x_test, data.y_test, "rk4@1/4").rounded == (0, 0)


def test_fans_and_fingerprints_are_those_of_the_cpu(device):
    biases = []
    for where in ("cpu", NAME):
        model, data = make("euler@1/4", where=where)
        biases.append(error_fan.fingerprint(model, data.x_test, ["euler@1/4"], data.y_test, n_boot=9).bias)
        fan = error_fan.error_fan(model, data.x_test[:5], "euler@1/2", substeps=2)
        error_fan.plot_fan(fan)
        table = error_fan.sensitivity(model, data.x_test, "rk4@1/4")
        biases.append(table.margin)
    assert abs(biases[0] - biases[2]).max() < 1e-6
    assert abs(biases[1] - biases[3]).max() < 1e-6
    assert len(error_fan.solver_probe(model, data.x_test, ["euler@1/4", "rk4@1/4"], data.y_test, folds=2)) == 3
    assert error_fan.separation(data.x_test[:20], data.y_test[:20]) >= 0


def test_crossings_and_step_maps_are_those_of_the_cpu(device):
    found = []
    for where in ("cpu", NAME):
        model, data = make("euler@1/4", where=where)
        count = crossings(model.block.solve(data.x_test, path=True).path, data.y_test).count
        steps = injectivity(model, data.x_test[:8])
        found.append((count, steps.share_folded, steps.refuted, round(steps.largest_h_lip, 5)))
        assert draw_finer(model, data.x_test[:8]).shape[0] == 33
        injectivity(model, data.x_test[:4], form_up_to=0)
    assert found[0] == found[1]


def test_solutions_at_given_times_are_those_of_the_cpu(device):
    z = problems.problem("rotation").z0.float()

    def field(t, z):
        return z * torch.cos(t)

    for solver in ("rk4@1/4", "dopri5@1e-4"):
        for wish in (dict(times=[.2, .5, 1.], t_span=(0., 1.)), dict(path=True), dict(jumps=(.3,))):
            ours, theirs = integrate(field, z, solver, **wish), integrate(field, z.to(NAME), solver, **wish)
            assert torch.allclose(ours.z, theirs.z.cpu(), atol=1e-6), (solver, wish)
    ends = torch.tensor([.5, 1., .7])
    ours = integrate(field, z, "rk4@1/4", t_span=(0., ends)).z
    assert torch.allclose(ours, integrate(field, z.to(NAME), "rk4@1/4", t_span=(0., ends.to(NAME))).z.cpu(), atol=1e-6)


def test_a_reference_is_computed_in_float64_or_refused(device):
    def grow(t, z):
        return z

    z = torch.ones(2, 1).to(NAME)
    if device.has_float64:
        assert torch.allclose(problems.reference(grow, z, 0., 1.).cpu(), torch.e * torch.ones(2, 1).double())
    else:
        with pytest.raises(ValueError, match="has no float64"):
            problems.reference(grow, z, 0., 1.)
        with pytest.raises(ValueError, match="pass a module"):
            error_fan.error_fan(grow, z, "euler@1/4")


class TheirModel(nn.Module):
    "A model that calls torchdiffeq itself."
    def __init__(self, **how):
        super().__init__()
        torch.manual_seed(0)
        self.field = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        self.head = nn.Linear(2, 2)
        self.how = how

    def forward(self, x):
        times = torch.tensor([0., 1.], device=x.device)
        return self.head(odeint(lambda t, z: self.field(z), x, times, **self.how)[-1])


@pytest.mark.parametrize("made", [
    lambda: NeuralODE.for_data(DATA, "euler@1/4", channels=8),
    lambda: NeuralODE.for_data(DATA, "dopri5@1e-3", channels=8),
    lambda: TheirModel(method="euler", options=dict(step_size=.25)),
    lambda: TheirModel(method="dopri5", rtol=1e-3, atol=1e-3, options=dict(dtype=torch.float32)),
], ids=["own euler", "own dopri5", "their euler", "their dopri5"])
def test_audits_judge_as_on_the_cpu_and_draw_nothing(device, made):
    model = made()
    x = DATA.x_test if isinstance(model, NeuralODE) else DATA.x_test[:, 0]
    ours = audit(model, x, DATA.y_test)
    before = device.generator.get_state()
    theirs = audit(model.to(NAME), x.to(NAME), DATA.y_test.to(NAME))
    assert torch.equal(before, device.generator.get_state())
    assert (ours.verdict, ours.swaps.changed.tolist()) == (theirs.verdict, theirs.swaps.changed.tolist())
    assert "share" in theirs.rounding, theirs.rounding


def test_models_and_runs_are_kept_and_resumed(device, tmp_path):
    model, data = make("euler@1/4", seed=[0, 1])
    save_model(model, tmp_path / "model.pt")
    assert next(load_model(tmp_path / "model.pt", NAME).parameters()).device.type == NAME
    assert member(model, 1)(data.x_test).shape == (60, 2)

    def train(iterations, checkpoint=None):
        model, data = make("euler@1/4", seed=[0, 1])
        fit(model, data, iterations, 16, seed=[0, 1], progress=False, steps=RandomDepth(1, 5), checkpoint=checkpoint)
        return [parameter.detach().cpu() for parameter in model.parameters()]

    whole, _, resumed = train(4), train(2, tmp_path / "run"), train(4, tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_run_that_changes_its_device_says_so(device, tmp_path):
    for where in ("cpu", NAME):
        model, data = make("euler@1/4", where=where)
        if where == "cpu":
            fit(model, data, 1, 16, progress=False, checkpoint=tmp_path / "run")
        else:
            with pytest.warns(UserWarning, match="was written on cpu and goes on on meta"):
                fit(model, data, 2, 16, progress=False, checkpoint=tmp_path / "run")


def test_experiments_protocols_and_searches_run(device, tmp_path):
    from neuralode_resnet.experiments import Experiment, read_trained, run_into
    from neuralode_resnet.experiments.protocol import Protocol, measure_scheme
    from neuralode_resnet.valid_training import Scheme

    experiment = Experiment("sphere2", "euler@1/4", ["rk4@1/4"], seeds=(0, 1), iterations=2, channels=4)
    run_into(tmp_path / "run", experiment, NAME)
    assert read_trained(tmp_path / "run", NAME)[0].members == 2
    protocol = Protocol(DATA.to(NAME), k=2, finest=8, iterations=2, batch_size=16, channels=4)
    assert len(measure_scheme(protocol, Scheme("euler@1/2", name="coarse"), seeds=[0, 1])) == 2
    small = dict(iterations=2, batch_size=8, progress=False, channels=4)
    assert len(grid_search(DATA.to(NAME), "euler", [1, 2], [0], **small)) == 2


def test_the_default_device_of_torch_changes_nothing():
    with SimulatedDevice():
        torch.set_default_device(NAME)
        try:
            data = load("sphere2", n_train=16, n_test=8)
            model = NeuralODE.for_data(data, "euler@1/4", channels=4)
            assert data.x_train.device.type == next(model.parameters()).device.type == "cpu"
            fit(model, data, 2, 8, progress=False, steps=RandomDepth(1, 5))
            swap_grid(model, data, ["rk4@1/4", "dopri5@1e-3"])
        finally:
            torch.set_default_device(None)


def test_an_audit_of_a_cpu_model_leaves_the_driver_alone(monkeypatch):
    def start(*args):
        raise AssertionError("the driver was started")

    for name in ("get_rng_state", "get_rng_state_all", "device_count"):
        monkeypatch.setattr(torch.cuda, name, start)
    audit(NeuralODE.for_data(DATA, "euler@1/2", channels=4), DATA.x_test, DATA.y_test)


class Unordered(nn.Module):
    "A model whose additions have another order at every call, as atomic ones on a GPU."
    def __init__(self, size):
        super().__init__()
        self.model, self.size = TheirModel(method="euler", options=dict(step_size=.25)), size

    def forward(self, x):
        UNORDERED[0] += 1
        return self.model(x) * (1 + self.size * (UNORDERED[0] % 3))


UNORDERED = [0]


def test_an_audit_counts_differences_of_the_size_of_rounding_as_rounding():
    found = audit(Unordered(1e-7), DATA.x_test[:, 0], DATA.y_test)
    assert any("as rounding does" in note for note in found.notes)
    with pytest.raises(ValueError, match="two runs differ"):
        audit(Unordered(1e-3), DATA.x_test[:, 0], DATA.y_test)


def waits_of_training(device, solver, iterations=10, steps=None, seed=0, **options):
    "Waits per iteration, after two iterations that fill caches; and evaluations per iteration."
    model, data = make(solver, seed=seed, **options)
    fit(model, data, 2, 16, seed=seed, progress=False, steps=steps and steps())
    device.reset()
    history = fit(model, data, iterations, 16, seed=seed, progress=False, steps=steps and steps())
    return device.waits, history.nfe.sum()


ONCE = 5  # of a whole training: checks of the data before it, the history after it


def test_budget_of_fixed_steps():
    with SimulatedDevice() as device:
        waits, _ = waits_of_training(device, "euler@1/16")
        copies = 10  # of batches, asynchronous on CUDA
        assert waits <= copies + ONCE, device.blame()


def test_pinned_memory_needs_no_wait(monkeypatch):
    monkeypatch.setattr(devices, "_PINNING", (NAME,))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with SimulatedDevice() as device:
        waits, _ = waits_of_training(device, "euler@1/16")
        assert waits <= ONCE, device.blame()
        waits, _ = waits_of_training(device, "euler@1/4", steps=lambda: RandomDepth(1, 5))
        assert waits <= ONCE + 5, device.blame()  # times of each of five grids, once
        waits, _ = waits_of_training(device, "euler@1/4", steps=lambda: RandomDepth(1, 5), seed=[0, 1])
        assert waits <= 10 + ONCE, device.blame()  # the look at the losses of members


def test_budget_of_adaptive_steps(monkeypatch):
    monkeypatch.setattr(devices, "_PINNING", (NAME,))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with SimulatedDevice() as device:
        waits, evaluations = waits_of_training(device, "dopri5@1e-3")
        attempts = (evaluations - 2 * 10) / 6
        assert waits <= attempts + 2 * 10 + ONCE, device.blame()  # two for the first step size of a solve


@pytest.mark.parametrize("folds", [True, False], ids=["recognised", "as written"])
def test_budget_of_the_adjoint(monkeypatch, folds):
    monkeypatch.setattr(devices, "_PINNING", (NAME,))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with SimulatedDevice(folds=folds) as device:
        waits, _ = waits_of_training(device, "euler@1/16", gradient="adjoint")
        assert waits <= 10 * 1 + ONCE, device.blame()


def test_an_iteration_can_be_captured():
    from neuralode_resnet.training import Run

    with SimulatedDevice() as device:
        model, data = make("euler@1/16")
        run = Run(model, data, 16, 1e-3, [0], [])
        for _ in range(2):
            run.advance()
        indices = next(run.batches)[0].to(NAME)
        with device.capturing():
            run.learn(data.x_train[indices], data.y_train[indices])


def test_a_loss_that_is_not_finite_ends_a_training_that_looks_late():
    with SimulatedDevice():
        model, data = make("euler@1/4")
        next(model.parameters()).data[:] = torch.nan
        with pytest.raises(TrainingError, match="the loss of seed 0 is nan at iteration 0"):
            fit(model, data, 3, 16, progress=False)


def test_memory_that_runs_out_on_the_processor_is_explained():
    model, data = make("euler@1/4", where="cpu")

    def fill(run):
        raise MemoryError("no memory for a native solve")

    fill.before = fill
    with pytest.raises(TrainingError, match="out of memory"):
        fit(model, data, 2, 16, progress=False, callbacks=[fill])


def test_autocast_trains_by_backpropagation():
    model, data = make("euler@1/4", where="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        history = fit(model, data, 3, 16, progress=False)
    assert history.loss.notna().all()


def test_auto_takes_a_gpu_for_images_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *args: "a card")
    assert devices.choose_device("auto", has_images=False)[0].type == "cpu"
    chosen, reason = devices.choose_device("auto", has_images=True)
    assert (chosen.type, reason) == ("cuda", "cuda (a card): the states are images")


def test_sweeps_have_one_process_per_gpu(monkeypatch):
    from neuralode_resnet.experiments.sweeps import _check_jobs

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.spread_over_gpus("cuda", 4) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert _check_jobs(None, "cuda") == 3
    assert _check_jobs(None, "cuda:1") == 1


def test_cudnn_is_deterministic_where_asked():
    seen = []
    model, data = make("euler@1/4", where="cpu")
    note = [lambda run: seen.append(torch.backends.cudnn.deterministic)]
    fit(model, data, 1, 16, progress=False, callbacks=note, deterministic=True)
    fit(model, data, 1, 16, progress=False, callbacks=note)
    assert seen == [True, False]


def test_the_simulation_refuses_what_a_gpu_refuses():
    with SimulatedDevice() as device:
        there = torch.ones(3).to(NAME)
        with pytest.raises(DeviceError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(DeviceError, match="numpy"):
            there.numpy()
        with pytest.raises(DeviceError, match="generator"):
            torch.rand(3, device=NAME, generator=torch.Generator())
        device.reset()
        there.sum().item()
        there[there > 0]
        torch.ones(3).to(NAME)
        assert device.waits == 3, device.blame()
        with device.capturing(), pytest.raises(DeviceError, match="captured"):
            there.sum().item()
    with SimulatedDevice(has_float64=False), pytest.raises(DeviceError, match="float64"):
        torch.ones(3).to(NAME).double()
