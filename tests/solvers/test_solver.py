"""A solver as a value: what refining it means, and what its name keeps."""
import pytest
from hypothesis import given, settings, strategies as st

from neuralode_resnet.solvers import Solver


@settings(max_examples=300)
@given(st.integers(1, 5000), st.sampled_from([2, 3, 4, 10]))
def test_a_refined_reciprocal_step_is_a_reciprocal(n, factor):
    assert Solver("euler", 1 / n).refined(factor).step_size == 1 / (n * factor)


@settings(max_examples=300)
@given(st.floats(1e-3, 0.9), st.sampled_from([2, 3, 4, 10]))
def test_any_other_step_is_divided_and_never_moved_to_a_reciprocal(h, factor):
    refined = Solver("euler", h).refined(factor).step_size
    assert abs(refined / (h / factor) - 1) < 1e-11


@pytest.mark.parametrize("h", [0.5006, 0.2503, 0.3340, 0.0199, 0.1009])
def test_a_step_within_a_percent_of_a_reciprocal_stays_what_it_is(h):
    assert Solver("rk4", h).refined(2).step_size == h / 2


def test_refining_a_tolerance_divides_both():
    refined = Solver("dopri5", rtol=1e-3, atol=1e-6).refined(10)
    assert (refined.rtol, refined.atol) == (1e-3 / 10, 1e-6 / 10)


@pytest.mark.parametrize("text", ["euler@1e999999999", "dopri5@1e-99999999", "dopri5@rtol=1e999999999,atol=1", "euler@1e400", "euler@1/1e999999999"])
def test_an_accuracy_that_no_float_holds_is_refused_at_once(text):
    with pytest.raises(ValueError):
        Solver.parse(text)
