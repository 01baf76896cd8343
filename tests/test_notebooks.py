"""Every notebook runs from top to bottom, alone: `pytest -k solvers/03` picks notebooks by name."""
import os
import shutil

import pytest
from house import NBS, SETTINGS, notebook_id, notebooks

CPU, WALL = 300, 1800  # seconds; a notebook is meant to take 20 of processor time, and this only ends what has no end
# seconds of processor time that the longest take, so that they begin first; `pytest -k notebook --durations=20` measures
COSTS = {}


def run_notebook(path, runner, slow=False):
    skip = [flag for flag in SETTINGS["tst_flags"].split() if not (slow and flag == "slow")]
    limits = {} if slow else dict(cpu=CPU, wall=WALL)
    return runner.run(path, skip, **limits)


def missing(path):
    "What the notebook is about and this machine does not have. The package does without; the notebook cannot."
    compilers = [os.environ.get("CC", "").partition(" ")[0], "cc", "gcc", "clang"]
    if notebook_id(path) in ("solvers/06_kernel", "solvers/07_native") and not any(c and shutil.which(c) for c in compilers):
        return "no C compiler here, so there is no native code to show"


def with_cost(path):
    name = notebook_id(path)
    return pytest.param(path, id=name, marks=pytest.mark.takes(COSTS.get(name, 1)))


@pytest.mark.parametrize("path", map(with_cost, notebooks(NBS)))
def test_notebook(path, runner, request, record_property):
    if reason := missing(path):
        pytest.skip(reason)
    done = run_notebook(path, runner, slow=request.config.getoption("--slow"))
    record_property("processor_seconds", round(done.seconds, 1))
    if done.code != 0:
        pytest.fail(f"{notebook_id(path)} failed\n{done.output}", pytrace=False)


def test_costs_are_those_of_notebooks():
    unknown = COSTS.keys() - {notebook_id(path) for path in notebooks(NBS)}
    assert not unknown, f"COSTS of {__file__} names notebooks that do not exist: {sorted(unknown)}"
