"""`fit`: what is learnt from, what survives an interruption, and what the model looks like afterwards."""
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from torch.nn.functional import cross_entropy

from neuralode_resnet.datasets import load
from neuralode_resnet.files import read_tensors, write_tensors
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.solvers.solver import SolveError
from neuralode_resnet.training import (
    Batches, Run, Terminated, TrainingError, fit, history_of, resume_run, save_run,
)


@pytest.fixture(scope="module")
def data():
    return load("sphere2", n_train=200, n_test=100, seed=0)


def make(data, seed=0, solver="euler@1/4"):
    return NeuralODE.for_data(data, solver, channels=8, seed=seed)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


class Draw:
    "Draws a number of steps for each iteration, and may fail at one of four moments."
    def __init__(self, error=None, when=None, at=3):
        self.error, self.when, self.at = error, when, at
        self.generator = torch.Generator().manual_seed(0)

    def may_fail(self, run, when):
        if self.error is not None and run.iteration == self.at and when == self.when:
            raise self.error

    def before(self, run):
        block = run.model.block
        self.nominal = block.solver, block.t_span
        block.t_span = (0., 2.)
        self.may_fail(run, "half drawn")
        block.solver = f"euler@1/{torch.randint(5, 9, (), generator=self.generator)}"
        self.may_fail(run, "drawn")

    def penalty(self, run):
        self.may_fail(run, "solved")
        return 0 * run.logits.mean((-2, -1))

    def __call__(self, run):
        self.may_fail(run, "stepped")
        run.model.block.solver, run.model.block.t_span = self.nominal

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


class Observer:
    "Has no say in the training."
    def __call__(self, run):
        pass


# --- the loss -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("batch_size", [1, 7, 32, 128, 200])
def test_the_loss_is_the_mean_over_the_batch_whatever_its_size(data, batch_size):
    model = make(data)
    indices = next(Batches(200, batch_size, [0]))[0]
    expected = cross_entropy(model(data.x_train[indices]), data.y_train[indices]).item()
    history = fit(model, data, 1, batch_size, progress=False)
    assert history.loss[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 128, 200])
@pytest.mark.parametrize("seed", [0, [0, 1, 2]])
def test_adam_gets_the_gradient_of_each_members_own_mean_loss(data, batch_size, seed):
    model = make(data, seed)
    seeds = [0] if seed == 0 else seed
    indices = next(Batches(200, batch_size, seeds))
    total = 0
    for i in range(len(seeds)):
        x = model.for_members(data.x_train[indices[i]])
        logits = model(x) if seed == 0 else model(x)[i]
        total = total + cross_entropy(logits, data.y_train[indices[i]])
    gradients = torch.autograd.grad(total, [*model.parameters()])
    run = Run(model, data, batch_size, 1e-4, seeds, [])
    run.advance()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        first_moment = run.optimizer.state[parameter]["exp_avg"]     # (1 - 0.9) times the gradient
        assert torch.allclose(first_moment, .1 * gradient, rtol=1e-3, atol=1e-7)


def test_the_penalty_is_learnt_from_and_not_recorded(data):
    class Pull:
        def penalty(self, run):
            return 100 * run.logits.square().mean((-2, -1))
        def __call__(self, run):
            pass
    with_penalty, without = make(data), make(data)
    first = fit(with_penalty, data, 1, progress=False, callbacks=[Pull()])
    assert first.loss[0] == fit(without, data, 1, progress=False).loss[0]
    assert any(not torch.equal(a, b) for a, b in zip(weights(with_penalty), weights(without)))


def test_accuracy_and_evaluations_are_those_of_the_batch(data):
    model = make(data, solver="rk4@1/2")
    indices = next(Batches(200, 50, [0]))[0]
    right = (model(data.x_train[indices]).argmax(-1) == data.y_train[indices]).float().mean().item()
    history = fit(model, data, 1, 50, progress=False)
    assert history.accuracy[0] == pytest.approx(right)
    assert history.nfe[0] == 8


# --- whatever ends a training, the model is left as it should be --------------------------------------------

@pytest.mark.parametrize("error", [KeyboardInterrupt(), SolveError("gave up"), torch.OutOfMemoryError("CUDA out of memory")])
@pytest.mark.parametrize("when", ["half drawn", "drawn", "solved", "stepped"])
@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_a_drawn_solver_is_taken_back_whatever_ends_the_training(data, error, when, seed):
    model = make(data, seed).eval()
    model.head.train()    # modes differ within the model, and are restored one by one
    with pytest.raises((KeyboardInterrupt, TrainingError, SolveError, torch.OutOfMemoryError)):
        fit(model, data, 9, seed=seed, steps=Draw(error, when), progress=False)
    assert str(model.block.solver) == "euler@1/4"
    assert model.block.t_span == (0., 1.)
    assert [model.training, model.head.training, model.block.training] == [False, True, False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_solver_that_a_callback_has_set_stays_when_a_later_one_fails(data):
    class Adapt:
        def state_dict(self):
            return {}
        def __call__(self, run):
            run.model.block.solver = "euler@1/6"
    def fail(run):
        if run.iteration == 3:
            raise KeyboardInterrupt
    model = make(data)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, 9, steps=Draw(), callbacks=[Adapt(), fail], progress=False)
    assert str(model.block.solver) == "euler@1/6"


def test_a_solver_that_before_sets_for_good_stays(data):
    class Stage:
        def before(self, run):
            run.model.block.solver = "euler@1/6"
        def __call__(self, run):
            pass
    model = make(data)
    fit(model, data, 3, callbacks=[Stage()], progress=False)
    assert str(model.block.solver) == "euler@1/6"


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_survives_a_training_that_succeeds(data, training):
    model = make(data).train(training)
    seen = []
    fit(model, data, 2, callbacks=[lambda run: seen.append(run.model.training)], progress=False)
    assert seen == [True, True]
    assert model.training is training


# --- resuming -----------------------------------------------------------------------------------------------

def interrupt_at(iteration):
    def stop(run):
        if run.iteration == iteration:
            raise KeyboardInterrupt
    return stop


@pytest.mark.parametrize("at", [6, 10, 13, 19])
def test_a_resumed_run_with_drawn_solvers_ends_with_the_same_bits(data, tmp_path, at):
    whole = make(data, [0, 1])
    expected = fit(whole, data, 20, seed=[0, 1], steps=Draw(), progress=False)
    options = dict(seed=[0, 1], progress=False, checkpoint=tmp_path / "run.pt", checkpoint_every=5)
    with pytest.raises(KeyboardInterrupt):   # the observer in front must not shift the states of the others
        fit(make(data, [0, 1]), data, 20, callbacks=[interrupt_at(at), Draw()], **options)
    resumed = make(data, [0, 1])
    history = fit(resumed, data, 20, callbacks=[Draw()], **options)
    assert all(map(torch.equal, weights(whole), weights(resumed)))
    assert history.equals(expected)


@pytest.mark.parametrize("asked, words", [
    (dict(), r"callbacks = \['Draw'\], not \[\]"),
    (dict(steps=Draw(), solver="euler@1/8"), "solver = euler@1/4, not euler@1/8"),
    (dict(steps=Draw(), solver="heun@1/4"), "solver = euler@1/4, not heun@1/4"),
    (dict(steps=Draw(), callbacks=[Draw()]), r"not \['Draw', 'Draw'\]"),
    (dict(steps=Draw(), batch_size=64), "batch_size = 128, not 64"),
    (dict(steps=Draw(), seed=1), r"seeds = \[0\], not \[1\]"),
])
def test_another_solver_and_other_callbacks_do_not_go_on(data, tmp_path, asked, words):
    path = tmp_path / "run.pt"
    fit(make(data), data, 5, steps=Draw(), progress=False, checkpoint=path)
    before = path.read_bytes()
    model = make(data, solver=asked.pop("solver", "euler@1/4"))
    untouched = weights(model)
    with pytest.raises(ValueError, match=words):
        fit(model, data, 9, progress=False, checkpoint=path, **asked)
    assert path.read_bytes() == before
    assert all(map(torch.equal, untouched, weights(model)))


def test_the_order_of_callbacks_counts(data, tmp_path):
    class Pull:
        def penalty(self, run):
            return 0 * run.losses
        def __call__(self, run):
            pass
    path = tmp_path / "run.pt"
    fit(make(data), data, 3, callbacks=[Pull(), Draw()], progress=False, checkpoint=path)
    with pytest.raises(ValueError, match="callbacks = "):
        fit(make(data), data, 5, callbacks=[Draw(), Pull()], progress=False, checkpoint=path)


def test_observers_may_come_and_go(data, tmp_path):
    path = tmp_path / "run.pt"
    fit(make(data), data, 3, callbacks=[Observer(), print], progress=False, checkpoint=path)
    assert len(fit(make(data), data, 5, progress=False, checkpoint=path)) == 5


def test_the_same_call_goes_on_with_a_model_whose_solver_was_adapted(data, tmp_path):
    class Adapt:
        def state_dict(self):
            return {}
        def load_state_dict(self, state):
            pass
        def __call__(self, run):
            run.model.block.solver = "euler@1/6"
    path = tmp_path / "run.pt"
    model = make(data)
    fit(model, data, 3, callbacks=[Adapt()], progress=False, checkpoint=path)
    assert len(fit(model, data, 5, callbacks=[Adapt()], progress=False, checkpoint=path)) == 5
    assert len(fit(make(data), data, 6, callbacks=[Adapt()], progress=False, checkpoint=path)) == 6


@pytest.mark.parametrize("spoil", [
    lambda saved: saved.pop("optimizer"), lambda saved: saved.pop("callbacks"), lambda saved: saved.pop("metrics"),
    lambda saved: saved.update(settings=[]), lambda saved: saved.update(optimizer={}),
    lambda saved: saved.update(batches={"order": None}), lambda saved: saved["callbacks"].append({}),
    lambda saved: saved["batches"]["generators"].append(saved["batches"]["generators"][0]),
])
def test_a_checkpoint_with_a_missing_part_is_named_and_changes_nothing(data, tmp_path, spoil):
    path = tmp_path / "run.pt"
    fit(make(data), data, 3, steps=Draw(), progress=False, checkpoint=path)
    saved = read_tensors(path)
    spoil(saved)
    write_tensors(path, saved)
    model = make(data)
    untouched = weights(model)
    with pytest.raises(ValueError, match="run.pt"):
        fit(model, data, 5, steps=Draw(), progress=False, checkpoint=path)
    assert all(map(torch.equal, untouched, weights(model)))


def test_a_flipped_bit_in_a_checkpoint_is_named(data, tmp_path):
    path = tmp_path / "run.pt"
    fit(make(data), data, 3, progress=False, checkpoint=path)
    raw = path.read_bytes()
    draws = torch.Generator().manual_seed(0)
    expected = weights(NeuralODE.for_data(data, "euler@1/4", channels=8))
    for _ in range(60):
        place, bit = int(torch.randint(len(raw), (), generator=draws)), int(torch.randint(8, (), generator=draws))
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1:])
        run = Run(make(data), data, 128, 1e-4, [0], [])
        try:
            resume_run(run, path)
        except ValueError:
            assert all(map(torch.equal, expected, weights(run.model)))
            continue
        intact = Run(make(data), data, 128, 1e-4, [0], [])
        path.write_bytes(raw)
        resume_run(intact, path)
        assert all(map(torch.equal, weights(run.model), weights(intact.model))), (place, bit)
        assert history_of(run).equals(history_of(intact)), (place, bit)


# --- signals ------------------------------------------------------------------------------------------------

def test_an_interruption_says_how_to_go_on(data, tmp_path):
    path = tmp_path / "run.pt"
    options = dict(progress=False, checkpoint=path, checkpoint_every=5)
    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(make(data), data, 20, callbacks=[interrupt_at(4)], **options)
    assert stopped.value.__notes__ == [
        f"The training was stopped after 4 iterations. The same call begins anew, since {path} was not yet due."]
    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(make(data), data, 20, callbacks=[interrupt_at(12)], **options)
    assert stopped.value.__notes__ == [
        f"The training was stopped after 12 iterations. The same call goes on from {path}, which holds 10."]


def terminate(run):
    if run.iteration == 3:
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_a_training_as_a_key_press_does(data):
    model = make(data).eval()
    with pytest.raises(Terminated) as stopped:
        fit(model, data, 20, steps=Draw(), callbacks=[terminate], progress=False)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert "stopped after 3 iterations" in stopped.value.__notes__[0]
    assert str(model.block.solver) == "euler@1/4"
    assert not model.training
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_somebody_else_is_left_alone(data):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        assert len(fit(make(data), data, 5, callbacks=[terminate], progress=False)) == 5
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_fit_works_in_a_thread(data):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(make(data), data, 3, progress=False)))
    thread.start()
    thread.join()
    assert len(found[0]) == 3


SCRIPT = textwrap.dedent("""
    import sys, time
    from neuralode_resnet.datasets import load
    from neuralode_resnet.models import NeuralODE
    from neuralode_resnet.training import fit
    data = load("sphere2", n_train=200, n_test=100, seed=0)
    def tell(run):
        if run.iteration == 50: print("ready", flush=True)
        if run.iteration > 50: time.sleep(.01)
    try:
        fit(NeuralODE.for_data(data, "euler@1/4"), data, 100_000, progress=False, callbacks=[tell],
            checkpoint=sys.argv[1], checkpoint_every=10)
    finally:
        print("tidied up", flush=True)
""")


def test_sigterm_from_outside_lets_everything_tidy_up(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "run.pt")], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert out == "tidied up\n"
    assert "The same call goes on from" in err
    assert read_tensors(tmp_path / "run.pt")["iteration"] >= 40


# --- failures -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("looks_late", [False, True])
def test_a_loss_that_is_not_finite_is_named_with_its_iteration(data, looks_late):
    model = make(data)
    def spoil(run):
        run.looks_late = looks_late   # as on an accelerator
        if run.iteration == 3:
            run.model.head[1].bias.data[:] = torch.nan   # the states stay finite, the loss does not
    with pytest.raises(TrainingError, match="the loss of seed 0 is nan at iteration 3") as error:
        fit(model, data, 200, callbacks=[spoil], progress=False)
    assert error.value.history.loss.isna().tolist()[:4] == [False, False, False, True]


def test_the_last_losses_are_looked_at_before_fit_returns(data):
    def spoil(run):
        run.looks_late = True
        if run.iteration == 8:
            run.model.head[1].bias.data[:] = torch.nan
        if run.iteration == 9:
            run.stop = "enough"
    with pytest.raises(TrainingError, match="at iteration 8"):
        fit(make(data), data, 20, callbacks=[spoil], progress=False)


def test_a_failed_member_leaves_the_others_alone(data):
    def hurt(run):
        if run.iteration == 3:
            run.model.block.field.stacked[0].data[1] = torch.nan
    hurt_one, healthy = make(data, [0, 1, 2]), make(data, [0, 1, 2])
    history = fit(hurt_one, data, 10, seed=[0, 1, 2], callbacks=[hurt], progress=False)
    fit(healthy, data, 10, seed=[0, 1, 2], progress=False)
    assert history.attrs["failed"] == {1: "the loss of seed 1 is nan at iteration 3"}
    for a, b in zip(weights(hurt_one), weights(healthy)):
        assert torch.equal(a[[0, 2]], b[[0, 2]])


def test_no_callback_sees_a_run_without_a_finite_loss(data):
    seen = []
    def spoil(run):
        seen.append(run.losses.item())
        if run.iteration == 3:
            run.model.head[1].bias.data[:] = torch.nan
    with pytest.raises(TrainingError):
        fit(make(data), data, 20, callbacks=[spoil], progress=False)
    assert len(seen) == 3


# --- the rest -----------------------------------------------------------------------------------------------

def test_batches_take_every_sample_once_per_epoch():
    batches = Batches(12, 4, [5])
    for _ in range(3):
        assert sorted(index for _ in range(3) for index in next(batches)[0].tolist()) == [*range(12)]


def test_batches_and_history_ignore_the_default_device(data):
    run = Run(make(data, [0, 1]), data, 64, 1e-4, [0, 1], [])
    run.advance()
    with torch.device("meta"):
        batches = Batches(12, 4, [5])
        assert next(batches).device.type == "cpu"
        assert history_of(run).seed.tolist() == [0, 1]


def test_a_run_is_shown_by_what_it_does(data, tmp_path):
    run = Run(make(data, [0, 1]), data, 64, 1e-4, [0, 1], [])
    run.advance()
    assert repr(run) == "Run(iteration=1, data='sphere2', solver='euler@1/4', seeds=[0, 1], failed=[])"
    save_run(run, tmp_path / "run.pt")
    assert run.saved_at == 1


IN_JUPYTER = textwrap.dedent("""
    import sys, types
    shell = types.SimpleNamespace(config={"IPKernelApp": 1})
    sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
    sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")
    sys.modules["ipywidgets"] = None   # as where it is not installed
    import neuralode_resnet.training
    print("imported", file=sys.stderr, flush=True)
    for name in [name for name in sys.modules if name.startswith("tqdm")]:
        del sys.modules[name]
    import tqdm.auto                   # which warns, if nobody prevents it
""")


def test_a_first_fit_in_jupyter_without_widgets_warns_of_nothing():
    ended = subprocess.run([sys.executable, "-c", IN_JUPYTER], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    ours, control = ended.stderr.split("imported")
    assert "IProgress" not in ours
    assert "IProgress" in control
