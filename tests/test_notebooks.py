"""Every notebook runs from top to bottom, alone: `pytest -k 03_` picks notebooks by name."""
import os
import shutil
import subprocess
import sys

import pytest
from house import NBS, ROOT, SETTINGS, notebook_id, notebooks

RUN = """
import sys
from pathlib import Path
from nbdev.test import test_nb
notebook, root, *skip = sys.argv[1:]
passed, _ = test_nb(Path(notebook), skip_flags=skip, basepath=root)
sys.exit(not passed)
"""


def run_notebook(path, slow=False):
    "In a process of its own, so that neither global state nor a crash reaches the next notebook."
    skip = [flag for flag in SETTINGS["tst_flags"].split() if not (slow and flag == "slow")]
    return subprocess.run(
        [sys.executable, "-c", RUN, path, ROOT, *skip],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "Agg"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a notebook is meant to take 20 s: this only keeps an endless loop from blocking everything else
        timeout=None if slow else 300,
    )


def missing(path):
    "What the notebook is about and this machine does not have. The package does without; the notebook cannot."
    compilers = [os.environ.get("CC", "").partition(" ")[0], "cc", "gcc", "clang"]
    if path.stem in ("07_kernel", "06_native") and not any(c and shutil.which(c) for c in compilers):
        return "no C compiler here, so there is no native code to show"


@pytest.mark.parametrize("path", notebooks(NBS), ids=notebook_id)
def test_notebook(path, request):
    if reason := missing(path):
        pytest.skip(reason)
    done = run_notebook(path, slow=request.config.getoption("--slow"))
    if done.returncode:
        pytest.fail(f"{notebook_id(path)} failed\n{done.stdout}", pytrace=False)
