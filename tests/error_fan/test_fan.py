"""The fan against exact flows: local errors carried to the end sum up to the global error."""
import math

import numpy as np
import pytest
import torch

from neuralode_resnet.datasets import load
from neuralode_resnet.error_fan import error_fan, fingerprint, plot_fan, solver_probe
from neuralode_resnet.models import NeuralODE


def decay(t, z):
    return -z


START = torch.tensor([[1.], [2.], [-1.]], dtype=torch.float64)


def test_transported_errors_sum_to_the_global_error():
    fan = error_fan(decay, START, "euler@1/8")
    numerical = START * (1 - 1 / 8) ** 8
    assert torch.allclose(fan.total, numerical - START * math.exp(-1), atol=1e-9)
    assert fan.transported.shape == (8, 3, 1)


def test_the_local_error_of_the_first_step_is_known():
    fan = error_fan(decay, START, "euler@1/8")
    assert torch.allclose(fan.local[0], START * (1 - 1 / 8 - math.exp(-1 / 8)), atol=1e-9)


def test_an_adaptive_solver_has_no_fan():
    with pytest.raises(ValueError, match="fixed step"):
        error_fan(decay, START, "dopri5@1e-3")


def test_a_fan_without_rays_is_not_drawn():
    with pytest.raises(ValueError, match="substeps"):
        plot_fan(error_fan(decay, START, "euler@1/4"))


def test_the_same_error_everywhere_is_all_bias():
    x = torch.linspace(1, 2, 50, dtype=torch.float64)[:, None]
    table = fingerprint(lambda t, z: torch.full_like(z, 2.) * torch.as_tensor(t).to(z), x, ["euler@1/4"], n_boot=99)
    # z' = 2 t: Euler loses h at the end, whatever the start
    assert table.rms.item() == pytest.approx(1 / 4)
    assert table.bias.item() == pytest.approx(1)


def test_errors_of_both_signs_have_no_bias():
    x = torch.cat([torch.ones(25, 1), -torch.ones(25, 1)]).double()
    table = fingerprint(decay, x, ["euler@1/4"], n_boot=99)
    assert table.bias.item() == pytest.approx(0, abs=1e-8)


def test_the_reference_is_not_compared_with_itself():
    with pytest.raises(ValueError, match="is the reference"):
        fingerprint(decay, START, ["dopri5@1e-8"])


def test_solvers_that_agree_cannot_be_told_apart():
    x = torch.randn(60, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table = solver_probe(lambda t, z: torch.ones_like(z), x, ["euler@1/4", "rk4@1/4"])
    assert table.accuracy.item() <= .6
    apart = solver_probe(lambda t, z: 40 * torch.as_tensor(t).to(z) + 0 * z, x, ["euler@1/4", "rk4@1/4"])
    assert apart.accuracy.item() > .9
    assert np.isfinite(apart["std"].item())


def test_every_local_error_is_measured_from_the_node_before():
    fan = error_fan(decay, START, "euler@1/8")
    exact = math.exp(-1 / 8)
    for n, local in enumerate(fan.local):
        assert torch.allclose(local, fan.path[n] * (1 - 1 / 8 - exact), atol=1e-9)


def test_a_ray_starts_at_its_node_and_ends_where_the_fan_says():
    fan = error_fan(decay, START, "euler@1/4", substeps=2)
    for n in range(4):
        times, states = fan.ray(n)
        assert times.tolist() == pytest.approx([k / 8 for k in range(2 * n, 9)])
        assert torch.equal(states[0], fan.path[n])
        assert torch.allclose(states[-1], fan.ends[n])


def test_the_interval_of_the_bias_reaches_zero_where_there_is_none():
    x = torch.cat([torch.ones(200, 1), -torch.ones(200, 1)]).double()
    table = fingerprint(decay, x, ["euler@1/4"])
    assert table.low.item() == 0
    assert table.high.item() < .1


def test_a_model_is_analysed_in_float64_and_left_in_float32():
    data = load("sphere2", seed=0)
    model = NeuralODE.for_data(data, "euler@1/4", seed=0)
    fan = error_fan(model, data.x_test[:3], "euler@1/4")
    assert fan.path.dtype == torch.float64
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_both_ends_of_one_start_stay_in_one_fold():
    # a solver against itself: twins get one answer, so exactly one half is right. 41 is no multiple of the folds
    x = torch.randn(41, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert solver_probe(decay, x, ["euler@1/4", "euler@1/4"]).accuracy.item() == .5
