"Models that this package did not make are drawn in a loop of their own, and left alone outside of it."
import copy

import pytest
import torch
from torch import nn
from torchdiffeq import odeint, odeint_adjoint, odeint_event

from neuralode_resnet.audit import torchdiffeq_solver
from neuralode_resnet.valid_training.drawn import MirroredSolve, RandomAccuracy, make_lightning_callback


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)

    def forward(self, t, z):
        return torch.tanh(self.net(z))


class Model(nn.Module):
    def __init__(self, solve=odeint, blocks=1, times=(0., 1.), **options):
        super().__init__()
        self.fields = nn.ModuleList(Field() for _ in range(blocks))
        self.solve, self.times, self.options = solve, torch.tensor(times), options

    def forward(self, z):
        for field in self.fields:
            z = self.solve(field, z, self.times, **self.options)[-1]
        return z


EULER = dict(method="euler", options=dict(step_size=.25))


@pytest.fixture
def z():
    torch.manual_seed(0)
    return torch.randn(8, 2)


def counts_of(draw, model, z, times=1, backward=True):
    "Evaluations and tolerances of the solves of each block."
    found = []
    for _ in range(times):
        with torchdiffeq_solver() as solves, draw.drawn(model):
            loss = model(z).square().sum()
            if backward:
                loss.backward()
        found.append([(solve.n_steps, solve.rtol) for solve in solves])
    return found


def test_depths_are_uniform_around_the_models_own(z):
    found = [solves[0][0] for solves in counts_of(RandomAccuracy(seed=1), Model(**EULER), z, 280)]
    assert sorted(set(found)) == [1, 2, 3, 4, 5, 6, 7]
    assert all(20 <= found.count(n) <= 65 for n in range(1, 8))


def test_a_drawn_solve_is_that_of_torchdiffeq_with_as_many_steps(z):
    model = Model(**EULER)
    with torchdiffeq_solver() as solves, RandomAccuracy(seed=5).drawn(model):
        out = model(z)
    n = solves[0].n_steps
    assert n != 4
    model.options = dict(method="euler", options=dict(step_size=1 / n))
    assert torch.allclose(out, model(z), atol=1e-6)


def test_every_output_time_is_the_end_of_a_step(z):
    model = Model(times=(0., .3, 1.), method="euler", options=dict(step_size=.1))
    with torchdiffeq_solver() as solves, RandomAccuracy(seed=2).drawn(model):
        model(z)
    assert all((solves[0].nodes == t).any() for t in solves[0].t)


def test_tolerances_are_log_uniform(z):
    model = Model(method="dopri5", rtol=1e-4, atol=1e-5)
    found = [solves[0][1] for solves in counts_of(RandomAccuracy(decades=1., seed=0), model, z, 60)]
    logs = torch.tensor(found).log10() + 4
    assert -1 <= logs.min() < -.8
    assert .8 < logs.max() <= 1
    assert abs(logs.mean()) < .3


def test_blocks_are_drawn_by_themselves(z):
    found = counts_of(RandomAccuracy(seed=0), Model(blocks=2, **EULER), z, 30)
    assert any(first != second for first, second in found)


@pytest.mark.parametrize("times", [(0., 1.), (0., .5, 1.)])
def test_the_adjoint_takes_the_steps_of_the_forward_solve(z, times):
    model = Model(odeint_adjoint, times=times, **EULER)
    for found in counts_of(RandomAccuracy(seed=3), model, z, 10):
        forward, *backward = [n for n, _ in found]
        assert sum(backward) == forward


def test_a_gradient_of_the_adjoint_outside_of_the_block_is_refused(z):
    with pytest.raises(RuntimeError, match="backward"):
        counts_of(RandomAccuracy(), Model(odeint_adjoint, **EULER), z, backward=False)


@pytest.mark.parametrize("draw", [RandomAccuracy(), MirroredSolve()])
def test_evaluation_outside_of_the_block_and_randomness_are_untouched(z, draw):
    from torchdiffeq._impl.odeint import SOLVERS
    model, table = Model(**EULER), dict(SOLVERS)
    before, state = model(z), torch.get_rng_state()
    with draw.drawn(model):
        model(z)
    assert SOLVERS == table
    assert torch.equal(model(z), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_seeded_and_resumed(z):
    model = Model(**EULER)
    whole = counts_of(RandomAccuracy(seed=7), model, z, 12)
    first = RandomAccuracy(seed=7)
    begun = counts_of(first, model, z, 5)
    resumed = RandomAccuracy(seed=0)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert begun + counts_of(resumed, model, z, 7) == whole
    assert counts_of(RandomAccuracy(seed=8), model, z, 12) != whole


def test_the_error_of_the_other_sign_has_the_mean_of_a_better_solve(z):
    model = Model(**EULER)
    signs = []
    for seed in range(8):
        with MirroredSolve(coarse=1., seed=seed).drawn(model):
            signs.append(model(z).detach())
    coarse = model(z).detach()
    mirrored = [out for out in signs if not torch.equal(out, coarse)]
    model.options = dict(method="dopri5", rtol=1e-7, atol=1e-7)
    exact = model(z).detach()
    assert 0 < len(mirrored) < 8
    assert ((coarse + mirrored[0]) / 2 - exact).abs().max() < .3 * (coarse - exact).abs().max()


def test_the_field_of_another_module_is_left_alone(z):
    model, other = Model(**EULER), Model(**EULER)
    with RandomAccuracy(seed=5).drawn(model):
        model(z)
        again = other(z)
    assert torch.equal(again, other(z))


def test_a_closure_is_drawn(z):
    net = Field()

    def model(z):
        return odeint(lambda t, z: net(t, z), z, torch.tensor([0., 1.]), **EULER)[-1]

    assert counts_of(RandomAccuracy(seed=5), model, z)[0][0][0] != 4


@pytest.mark.parametrize("options, words", [
    (dict(method="euler", options=dict(grid_constructor=lambda f, y, t: t)), "grid_constructor"),
    (dict(method="scipy_solver", options=dict(solver="RK45")), "scipy_solver"),
])
def test_what_cannot_be_drawn_is_refused_by_name(z, options, words):
    model = Model(**options)
    with pytest.raises(ValueError, match=words):
        with torch.no_grad(), RandomAccuracy().drawn(model):
            model(z)


def test_an_event_is_refused_by_name(z):
    field = Field()
    with pytest.raises(ValueError, match="event"), RandomAccuracy().drawn(field):
        odeint_event(field, z, torch.tensor(0.), event_fn=lambda t, z: t - .5, method="euler",
                     options=dict(step_size=.1))


@pytest.mark.parametrize("model, words", [
    (Model(method="dopri5"), "RandomAccuracy"), (Model(odeint_adjoint, **EULER), "adjoint"),
])
def test_no_error_is_mirrored_where_there_is_none(z, model, words):
    with pytest.raises(ValueError, match=words), MirroredSolve().drawn(model):
        model(z)


def test_zuko_is_refused_by_name(z):
    zuko = pytest.importorskip("zuko")
    flow = zuko.flows.CNF(2, hidden_features=(8,))
    with pytest.raises(ValueError, match="zuko"), RandomAccuracy().drawn(flow):
        flow().log_prob(z)


def test_a_model_that_solves_nothing_is_refused(z):
    with pytest.raises(ValueError, match="nothing was drawn"), RandomAccuracy().drawn(nn.Linear(2, 2)) as _:
        pass


def test_an_error_of_the_loop_passes_and_the_table_is_given_back(z):
    from torchdiffeq._impl.odeint import SOLVERS
    table = dict(SOLVERS)
    with pytest.raises(KeyError), RandomAccuracy().drawn(Model(**EULER)):
        raise KeyError("the user's")
    assert SOLVERS == table


def test_lightning_draws_every_training_batch(z):
    lightning = pytest.importorskip("pytorch_lightning")
    seen = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model(**EULER)

        def training_step(self, batch, index):
            calls = []
            hook = self.model.fields[0].register_forward_hook(lambda *_: calls.append(1))
            loss = self.model(batch).square().mean()
            hook.remove()
            seen.append(len(calls))
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), .1)

    callback = make_lightning_callback(RandomAccuracy(seed=1))
    trainer = lightning.Trainer(max_epochs=3, callbacks=[callback], logger=False, accelerator="cpu",
                                enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(Module(), torch.utils.data.DataLoader(z, batch_size=2))
    assert len(seen) == 12
    assert len(set(seen)) > 2
