"""What recognition hands to fast code is the field: convolutions that see the time, and solves without a compiler."""

import copy

import pytest
import torch
from torch import nn

from neuralode_resnet.solvers import integrate, native
from neuralode_resnet.solvers.stacks import Stack, recognise, why_not


class TimedConvolutions(nn.Module):
    "Conv1d on a short state; the time is a channel before or behind the others, for both layers."

    def __init__(self, channels, taps, before):
        super().__init__()
        self.first = nn.Conv1d(channels + 1, 9, taps, padding=taps // 2)
        self.second = nn.Conv1d(10, channels, taps, padding=taps // 2, bias=False)
        self.before = before

    def widened(self, t, z):
        time = torch.ones_like(z[:, :1]) * t
        return torch.cat([time, z] if self.before else [z, time], 1)

    def forward(self, t, z):
        return self.second(self.widened(t, torch.tanh(self.first(self.widened(t, z)))))


class Timed(nn.Module):
    "Linear layers with the time behind the state."

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 33), nn.ReLU(), nn.Linear(33, 64), nn.GELU(), nn.Linear(64, 3))

    def forward(self, t, z):
        return self.net(torch.cat([z, t.expand(z.shape[0], 1)], -1))


def euler(field, z, n=8):
    for i in range(n):
        z = z + field(torch.tensor(i / n, dtype=z.dtype), z) / n
    return z


def with_gradients(end, z, field):
    return [end, *torch.autograd.grad(end.square().sum(), [z, *field.parameters()])]


def assert_near(ours, exact, tolerance):
    for a, b in zip(ours, exact, strict=True):
        assert (a - b).abs().max() <= tolerance * max(1, b.abs().max().item())


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("channels, taps, positions", [(1, 3, 2), (2, 5, 3), (3, 1, 6), (2, 3, 1), (2, 3, 12)])
@pytest.mark.parametrize("switch", ["1", "0"])
def test_convolutions_with_a_channel_for_the_time_are_solved_as_written(before, channels, taps, positions, switch, monkeypatch):
    monkeypatch.setenv("NEURALODE_RESNET_NATIVE", switch)
    torch.manual_seed(0)
    field, z = TimedConvolutions(channels, taps, before), torch.randn(70, channels, positions, requires_grad=True)
    assert isinstance(recognise(field, z), Stack), why_not(field, z)
    ours = with_gradients(integrate(field, z, "euler@1/8").z, z, field)
    double, start = copy.deepcopy(field).double(), z.detach().double().requires_grad_()
    assert_near(ours, with_gradients(euler(double, start), start, double), 1e-5)


def test_a_time_along_another_axis_than_the_channels_is_not_mistaken_for_a_channel():
    class Longer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3, padding=1)

        def forward(self, t, z):
            return self.conv(torch.cat([z, torch.ones_like(z[..., :1]) * t], -1))[..., :-1]
    field, z = Longer(), torch.randn(4, 2, 2)
    assert recognise(field, z) is None
    torch.testing.assert_close(integrate(field, z, "euler@1/8").z, euler(field, z))


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setenv("NEURALODE_RESNET_NATIVE", "0")
    torch.manual_seed(0)
    field, z = Timed(), torch.randn(40, 3, requires_grad=True)
    assert not native.usable(recognise(field, z), z)
    return field, z


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_compiler_gradients_are_those_of_the_field_as_written(without_compiler, dtype):
    field, z = without_compiler[0].to(dtype), without_compiler[1].detach().to(dtype).requires_grad_()
    ours = with_gradients(integrate(field, z, "euler@1/8").z, z, field)
    assert_near(ours, with_gradients(euler(field, z), z, field), 1e-5 if dtype == torch.float32 else 1e-12)


def test_without_a_compiler_a_graph_is_retained_and_freed_as_in_pytorch(without_compiler):
    field, z = without_compiler
    end = integrate(field, z, "dopri5@1e-3").z
    first = torch.autograd.grad(end.sum(), z, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(end.sum(), z)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        end.sum().backward()


def test_without_a_compiler_a_weight_changed_before_the_way_back_is_an_error(without_compiler):
    field, z = without_compiler
    end = integrate(field, z, "rk4@1/4").z
    with torch.no_grad():
        field.net[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        end.sum().backward()


def test_without_a_compiler_second_derivatives_are_right(without_compiler):
    field, z = without_compiler
    seconds = []
    for end in (integrate(field, z, "euler@1/8").z, euler(field, z)):
        slope, = torch.autograd.grad(end.square().sum(), z, create_graph=True)
        seconds.append(torch.autograd.grad(slope.square().sum(), [z, *field.parameters()], materialize_grads=True))
    assert_near(*seconds, 1e-4)
