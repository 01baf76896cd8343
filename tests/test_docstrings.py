"""What `help` says of a public name holds a description of every parameter, the one that stands beside it in the source."""
import ast
import functools
import importlib
import inspect
import subprocess
import sys

import house
import pytest
from house import NBS, PACKAGE, ROOT

from neuralode_resnet.docstrings import PARAMETERS

ROOMS = [house.module_name(path) for path in house.module_notebooks(NBS)]
ROOMS = [name for name in ROOMS if house.dotted(name).split(".")[0] != "cli"]


def described(doc):
    "Descriptions by name, as the docstring lists them."
    lines = (doc or "").partition(PARAMETERS)[2].splitlines()
    return dict(zip(lines[::2], [line.strip() for line in lines[1::2]]))


@pytest.mark.parametrize("room", ROOMS)
def test_help_describes_every_parameter(room):
    module = importlib.import_module(f"{PACKAGE}.{house.dotted(room)}")
    source = inspect.getsource(module)
    missing = []
    for name, node in house.public_symbols(ast.parse(source)):
        obj = functools.reduce(inspect.getattr_static, name.split("."), module)
        obj = getattr(obj, "__func__", obj)
        wanted = house.descriptions(node, source)
        if isinstance(node, ast.ClassDef) and not wanted:
            inits = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
            wanted = house.descriptions(inits[0], source) if inits else {}
        if isinstance(obj, property):
            continue
        said = described(inspect.getdoc(obj))
        missing += [f"{name}({parameter}): help says {said.get(parameter)!r}, the source {text!r}"
                    for parameter, text in wanted.items() if said.get(parameter) != " ".join(text.split())]
    assert not missing, "\n".join(missing)


def test_help_names_what_the_parameters_of_an_audit_mean():
    from neuralode_resnet.audit import audit
    said = described(inspect.getdoc(audit))
    assert [*said] == [*inspect.signature(audit).parameters]
    assert said["confidence"] == "of the intervals"


def test_the_commands_keep_their_help():
    import neuralode_resnet.cli.main as commands
    assert PARAMETERS not in commands.train.__doc__


def test_importing_the_package_imports_nothing_heavy():
    script = f"import {PACKAGE}, sys; print(*[name for name in ('torch', 'numpy', 'inspect', 'typer') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
