"""What a report says, on models that were really audited: one headline, the numbers of its table, and files that need nothing else."""
import json
import re

import pytest
import torch
from neuralode_resnet.audit import ModifiedField, audit
from neuralode_resnet.audit.report import as_html, as_json, as_markdown, headline, label_of
from torch import nn
from torchdiffeq import odeint

pytestmark = pytest.mark.filterwarnings("ignore")
POINTS = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))


class Flow(nn.Module):
    "Two fields, one after the other, each by Euler's method."

    def __init__(self, first, second, steps=8):
        super().__init__()
        self.first, self.second, self.options = first, second, dict(step_size=1 / steps)

    def forward(self, x):
        for field in (self.first, self.second):
            x = odeint(field, x, torch.tensor([0.0, 1.0]), method="euler", options=self.options)[-1]
        return x


class Turn(nn.Module):
    def __init__(self, speed):
        super().__init__()
        self.speed = speed

    def forward(self, t, z):
        return self.speed * torch.sin(z.flip(1))


@pytest.fixture(scope="module")
def resnet():
    return audit(Flow(Turn(0.01), Turn(9.0)), POINTS, compare="class")


def test_the_block_to_blame_is_named(resnet):
    [said] = [text for text in resnet.advice if "to blame" in text]
    assert said.startswith("the block to blame is second (")


def test_the_headline_has_the_numbers_of_the_table(resnet):
    changed, n, solver = re.match(r"(\d+) of (\d+) predicted classes change under (.+?), \d+\.\d %", headline(resnet)).groups()
    [row] = resnet.swaps[resnet.swaps.solver == solver].to_dict("records")
    assert (row["changed"], row["n"]) == (int(changed), int(n))
    assert headline(resnet).endswith(f"{label_of(resnet)}")


@pytest.mark.parametrize("shown", [str, repr, as_markdown, as_html, as_json], ids=lambda f: f.__name__)
def test_each_form_has_one_headline(resnet, shown):
    text = " ".join(shown(resnet).split())
    assert text.count(f"{headline(resnet)}") == 1


@pytest.mark.parametrize("shown", [str, as_markdown, as_html, as_json], ids=lambda f: f.__name__)
def test_each_form_says_what_was_audited(resnet, shown):
    text = " ".join(shown(resnet).split())
    for words in ("Flow, 0 parameters", "400 × 2 (float32), SHA-256", torch.__version__):
        assert words in text or words.encode("ascii", "backslashreplace").decode().replace("\\xd7", "\\u00d7") in text


def test_equal_data_have_equal_hashes_and_others_have_not(resnet):
    again = audit(Flow(Turn(0.01), Turn(0.01)), POINTS.clone(), compare="class")
    other = audit(Flow(Turn(0.01), Turn(0.01)), POINTS + 1, compare="class")
    assert again.settings["data"] == resnet.settings["data"] != other.settings["data"]


def test_the_page_asks_no_server_and_runs_nothing(resnet):
    page = as_html(resnet)
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)|src=", page)
    assert set(re.findall(r'href="(.)', page)) <= {"#"}
    assert "currentColor" in page and "Canvas" in page


def test_advice_for_a_given_field_is_sampling_steps():
    model = Flow(Turn(3.0), Turn(0.01), steps=2)
    given, unknown = (audit(model, POINTS, compare="value", trained_through_solver=how) for how in (False, None))
    assert given.verdict == "ResNet" == unknown.verdict
    assert not [text for text in given.advice if re.search(r"\btrain with|modified|train far", text)]
    assert [text for text in given.advice if "sample with" in text]
    assert [text for text in unknown.advice if "if the model was trained through its solver" in text]


def test_a_repaired_resnet_has_one_headline_and_code_that_works():
    def field(t, z):
        return torch.stack([z[:, 1], -2 * z[:, 0]], 1)

    def model(x):
        return odeint(field, x, torch.tensor([0.0, 1.0]), method="euler", options=dict(step_size=1 / 64))[-1]

    report = audit(model, POINTS, compare="value", change=0.005)
    assert report.verdict == "ResNet"
    assert label_of(report).startswith("ResNet as used; equals another ODE, ")
    names = dict(field=field, z0=POINTS, t=torch.tensor([0.0, 1.0]), odeint=odeint, ModifiedField=ModifiedField)
    exec("\n".join(report.repair["code"]), names)
    moved = (names["z"][-1] - model(POINTS)).norm(dim=1) / model(POINTS).norm(dim=1)
    assert moved.max() < 0.005
    assert report.repair["code"][0] in str(report)


def test_targets_of_a_regression_give_errors():
    model = Flow(Turn(0.01), Turn(0.01))
    report = audit(model, POINTS, model(POINTS) + 0.5, compare="value")
    assert "rms error" in str(report) and abs(report.settings["own"]["rmse"] - 0.5) < 1e-6
    assert report.distributions == {}, "a regression is no sampler"


def test_targets_may_have_one_axis_less_than_the_output():
    model = Flow(Turn(0.01), Turn(0.01))
    report = audit(model, POINTS, POINTS[:, 0], compare="value", output=lambda out: out[:, :1])
    assert report.settings["own"]["rmse"] < 0.1


def test_an_absolute_change_is_in_the_unit_of_the_output():
    report = audit(Flow(Turn(0.01), Turn(0.01)), POINTS, compare="value", change=0.1, unit="absolute")
    assert "values change by more than 0.1 under" in headline(report) and label_of(report) == "ODE within 2 %"


def test_samplers_are_compared_as_distributions_too():
    report = audit(Flow(Turn(9.0), Turn(0.01)), POINTS, compare="value")
    found = json.loads(as_json(report))["distributions"]
    assert found["n"] == 400 and 0 < found["share"] < 1
    assert "Distributions: energy distance" in str(report)


def test_a_wrong_percent_sign_is_in_no_report(resnet):
    assert not re.search(r"\d%", str(resnet) + as_markdown(resnet))
