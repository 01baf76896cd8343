"""Every notebook runs from top to bottom, alone: `pytest -k solvers/03` picks notebooks by name."""
import os
import shutil

import pytest
from house import NBS, SETTINGS, notebook_id, notebooks

CPU, WALL = 300, 1800  # seconds; a notebook is meant to take 20 of processor time, and this only ends what has no end
# seconds of processor time that the longest take, so that they begin first; `pytest -k notebook --durations=20` measures
COSTS = {
    "paper/why_random_depth": 49, "paper/supplement_adjoint": 18, "error_fan/02_margins": 17, "paper/figure_1": 15,
    "crossing/02_step_maps": 14, "tutorials/03_adapt_the_step": 14, "tutorials/05_run_a_sweep": 11,
    "tutorials/02_swap_the_solver": 10, "datasets/04_data": 10, "adaptation/02_adapters": 8,
    "solver_swap/02_rounding": 8, "solvers/09_solver": 8, "error_fan/01_fan": 6, "paper/figure_2": 6,
    "tutorials/04_own_tableau": 6, "experiments/09_protocol": 6, "02_training": 6, "audit/12_repair": 6,
    "valid_training/01_controllers": 6, "solvers/01_problems": 6, "solvers/08_native": 5, "crossing/01_trajectories": 5,
    "tutorials/audit_your_model": 5, "index": 5, "models/04_memory": 5, "solvers/04_control": 5,
    "audit/06_convergence": 5, "cli/04_main": 5, "tutorials/audit_checked": 4, "cli/02_audit": 4, "audit/15_examine": 12,
    "datasets/03_three_minima": 4, "paper/figure_4": 4, "adaptation/03_grid_search": 4,
}


def run_notebook(path, runner, slow=False):
    skip = [flag for flag in SETTINGS["tst_flags"].split() if not (slow and flag == "slow")]
    limits = {} if slow else dict(cpu=CPU, wall=WALL)
    return runner.run(path, skip, **limits)


def missing(path):
    "What the notebook is about and this machine does not have. The package does without; the notebook cannot."
    compilers = [os.environ.get("CC", "").partition(" ")[0], "cc", "gcc", "clang"]
    if notebook_id(path) in ("solvers/07_kernel", "solvers/08_native") and not any(c and shutil.which(c) for c in compilers):
        return "no C compiler here, so there is no native code to show"


def with_cost(path):
    name = notebook_id(path)
    return pytest.param(path, id=name, marks=pytest.mark.takes(COSTS.get(name, 1)))


@pytest.mark.parametrize("path", [with_cost(path) for path in notebooks(NBS)])
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
