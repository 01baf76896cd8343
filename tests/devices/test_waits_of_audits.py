"What an audit moves from and to a device, counted on the simulated one."
import sys
from pathlib import Path

import torch
from torch import nn
from torchdiffeq import odeint

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_device import NAME, SimulatedDevice  # noqa: E402

from neuralode_resnet.audit import audit  # noqa: E402
from neuralode_resnet.datasets import load  # noqa: E402

DATA = load("sphere2", n_train=128, n_test=60)


class TheirModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.field = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        times = torch.tensor([0., 1.], device=x.device)
        return odeint(lambda t, z: self.field(z), x, times, method="euler", options=dict(step_size=.25))[-1]


def copies_of(simulated, room):
    return sum(times for (what, place), times in simulated.sites.items() if "copy" in what and room in place)


def test_labels_go_to_the_host_once_and_random_times_to_the_device_together():
    with SimulatedDevice() as simulated:
        model, x, y = TheirModel().to(NAME), DATA.x_test[:, 0].to(NAME), DATA.y_test.to(NAME)
        simulated.reset()
        report = audit(model, x, y)
        assert "accuracy" in report.swaps
        assert copies_of(simulated, "audit/evidence") == 0, simulated.blame(20)
        assert copies_of(simulated, "audit/examine") <= 1, simulated.blame(20)
        assert copies_of(simulated, "audit/hidden") <= 1, simulated.blame(20)
