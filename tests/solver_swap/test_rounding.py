"""What rounding changes is told apart from what a solver changes."""
import pytest

from neuralode_resnet.datasets import load
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.solver_swap import RoundedValidity, Validity, in_precision, rounded_validity
from neuralode_resnet.solvers import Solver


def validity_of(train, test, n=100):
    "A `Validity` of n samples of which `train` and `test` are right under the two solvers."
    own, other = Solver("euler", 1 / 2), Solver("rk4", 1 / 2)
    return Validity(own, other, n, train / n, test / n, flips=abs(train - test), lost=max(0, train - test),
                    won=max(0, test - train), threshold=.1)


@pytest.mark.parametrize("own, exact, verdict", [
    ((90, 90), (90, 90), "valid"), ((90, 50), (90, 50), "solver"), ((90, 50), (90, 90), "rounding"), ((60, 60), (90, 90), "rounding"),
])
def test_the_control_in_fp32_decides_what_is_to_blame(own, exact, verdict):
    assert RoundedValidity(validity_of(*own), validity_of(*exact), (0, 0)).verdict == verdict


def test_the_precision_is_put_back_after_an_error():
    model = NeuralODE.for_data(load("sphere2", seed=0), "euler@1/2", channels=4)
    with pytest.raises(ZeroDivisionError), in_precision(model, "fp32"):
        1 / 0
    assert model.block.field.precision == "fp32"


def test_an_ensemble_is_refused():
    data = load("sphere2", seed=0)
    model = NeuralODE.for_data(data, "euler@1/2", channels=4, seed=[0, 1])
    with pytest.raises(ValueError, match="an ensemble of 2"):
        rounded_validity(model, data.x_test, data.y_test, "rk4@1/2")
