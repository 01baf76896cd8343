"""How the tests run: one process per core, the longest first, each with one thread.

`pytest -n0` runs them in one process, as `-s` and `--pdb` do, which need the terminal.
"""
import os

import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run slow tests and the notebook cells flagged `#| slow`")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    "pytest-xdist, if it is installed, gets a process per core, unless somebody has said how many."
    options = config.option
    unsaid = getattr(options, "numprocesses", 0) is None and options.dist == "no"
    alone = options.capture == "no" or options.usepdb or options.collectonly or hasattr(config, "workerinput")
    if unsaid and not alone and cores() > 1:
        options.numprocesses = cores()
    if getattr(options, "numprocesses", None):  # processes that share a core are slower with more threads than with one
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests go wherever a process is free, but those of the site to one, which builds it into folders of the project.

    (`--dist loadgroup` writes the group into a test's name, which pytest 9 no longer lets it do.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneProcessBuildsTheSite(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "site" if "test_site.py" in nodeid else nodeid

    return OneProcessBuildsTheSite(config, log)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))
    costs = {item.nodeid: mark.args[0] for item in items if (mark := item.get_closest_marker("takes"))}
    items.sort(key=lambda item: -costs.get(item.nodeid, 0))  # stable: the others keep their order


@pytest.fixture(scope="session")
def runner():
    "Runs notebooks in processes of their own."
    from house import ROOT
    from notebook_runner import Runner
    runner = Runner(ROOT)
    yield runner
    runner.close()


def pytest_terminal_summary(terminalreporter, config):
    "With --durations also the processor time of notebooks, which is what `COSTS` of test_notebooks.py holds."
    if config.option.durations is None:
        return
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    found = [(dict(report.user_properties)["processor_seconds"], report.nodeid) for report in reports
             if report.when == "call" and "processor_seconds" in dict(report.user_properties)]
    if found:
        terminalreporter.section("processor time of notebooks")
        for seconds, name in sorted(found, reverse=True)[:config.option.durations or None]:
            terminalreporter.line(f"{seconds:7.1f} s  {name}")
