"""Words of the command line become schemes, or one message."""
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from neuralode_resnet.cli.options import scheme_of
from neuralode_resnet.valid_training import named_schemes


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(low=st.integers(1, 500), more=st.integers(0, 500), sign=st.sampled_from(["-", "..", ":", " - "]))
def test_a_range_of_depths_is_read_as_written(low, more, sign):
    draw = scheme_of("rk4@1/4", depth=f"{low}{sign}{low + more}").draw
    assert (draw["low"], draw["high"]) == (low, low + more)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(low=st.floats(1e-12, 1e-3), factor=st.floats(1, 1e3))
def test_a_range_of_tolerances_is_read_as_written(low, factor):
    draw = scheme_of("dopri5@1e-3", random_tol=f"{low!r}-{low * factor!r}").draw
    assert (draw["low"], draw["high"]) == (low, low * factor)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(text=st.text(max_size=12))
def test_any_other_text_is_one_message(text):
    try:
        draw = scheme_of("rk4@1/4", depth=text).draw
    except ValueError as error:
        assert "--depth" in str(error) or "low <= high" in str(error)
    else:
        assert 1 <= draw["low"] <= draw["high"]


@pytest.mark.parametrize("k", [4, 8, 16, 32])
def test_every_named_scheme_is_found_at_every_size(k):
    for name, scheme in named_schemes(k).items():
        assert scheme_of(scheme=name, nfe=k) == scheme


@pytest.mark.parametrize("adapt, kinds", [("paper", ["step", "tolerance"]), ("controller", ["validity", "tolerance_controller"])])
def test_what_adapts_depends_on_the_solver(adapt, kinds):
    found = [scheme_of(solver, adapt=adapt).adaptation["kind"] for solver in ("euler@1/8", "dopri5@1e-3")]
    assert found == kinds


@pytest.mark.parametrize("solver, method", [("euler@1/8", "midpoint"), ("midpoint@1/8", "rk4"), ("heun@1/8", "rk4"),
                                            ("rk4@1/8", "dopri5"), ("dopri5@1e-3", "dopri5")])
def test_checks_compare_with_a_better_method(solver, method):
    assert scheme_of(solver, adapt="controller").adaptation["test_solver"] == method


@pytest.mark.parametrize("adapt", ["paper", "controller"])
def test_an_adapted_tolerance_starts_at_that_of_the_solver(adapt):
    assert scheme_of("dopri5@2e-3", adapt=adapt).adaptation["tol"] == 2e-3
    name = {"paper": "dopri5-the-papers-adaptation", "controller": "dopri5-controller"}[adapt]
    assert scheme_of("dopri5@2e-3", scheme=name).adaptation["tol"] == 2e-3
