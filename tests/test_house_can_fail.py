"""A rule that cannot fail checks nothing: each is broken here by a small notebook, and named in the complaint."""
import importlib.util
import re
import shutil
import sys

import house
import nbformat
import pytest
from house import ROOT, SETTINGS
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_notebooks import run_notebook

TITLE = "# Doubling\n\n> Twice a number is the number added to itself."
DOUBLE = '#| export\ndef double(\n    x,  # a number\n):\n    "Returns `x` twice."\n    return x + x'


def notebook(path, *sources, **changes):
    "A notebook of these sources: those that begin with '# ' or '> ' or a capital are prose."
    prose = ("# ", "> ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    new = [new_markdown_cell(source) if source.startswith(prose) else new_code_cell(source) for source in sources]
    for i, cell in enumerate(new):
        cell["id"] = f"cell{i}"
    nb = new_notebook(cells=new, metadata=changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


@pytest.fixture
def good(tmp_path):
    "A notebook without fault, behind a door or beside them, to be changed in one way."
    def make(*more, name="models/01_doubling", title=TITLE, double=DOUBLE, module=None):
        *door, stem = name.split("/")
        module = module or ".".join([*door, "doubling"])
        return notebook(tmp_path / "nbs" / f"{name}.ipynb", title, f"#| default_exp {module}", double,
                        "Two and two make four.\n\nSo do these.", "assert double(2) == 4", *more)
    return make


RULES = [house.large_outputs, house.misnamed_module, house.missing_title, house.upward_imports, house.undocumented_symbols,
         house.undescribed_parameters, house.crowded_lines, house.wide_lines, house.names_without_thing]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_gives_no_complaint(rule, good):
    assert rule(good()) == []


def exported(*lines):
    return dict(double="\n".join(["#| export", *lines]))


@pytest.mark.parametrize("rule, changes, complaint", [
    (house.misnamed_module, dict(name="models/01_halving"), "models/01_halving: default_exp is models.doubling, allowed models.halving"),
    (house.misnamed_module, dict(module="doubling"), "models/01_doubling: default_exp is doubling, allowed models.doubling"),
    (house.misnamed_module, dict(name="models/doubling"), "models/doubling: no number"),
    (house.misnamed_module, dict(name="models/01_utils"), "models/01_utils: utils does not say what the module holds"),
    (house.misnamed_module, dict(name="models/00_models", module="models"),
     "models/00_models: default_exp is models, allowed models.__init__"),
    (house.misnamed_module, dict(name="01_doubling"), "01_doubling: doubling is no door of this house"),
    (house.misnamed_module, dict(name="sums/01_doubling"), "sums/01_doubling: sums is no door of this house"),
    (house.missing_title, dict(title="# Doubling"), "models/01_doubling: cell 1: begins with ['# Doubling']"),
    (house.upward_imports, dict(more=["from neuralode_resnet.models.doubling import double"]),
     "models/01_doubling: cell 6: imports models.doubling, allowed rooms of models before 01_doubling"),
    (house.upward_imports, dict(more=["from .doubling import double"]), "models/01_doubling: cell 6: imports models.doubling"),
    (house.upward_imports, dict(more=["from neuralode_resnet.models import double"]),
     "models/01_doubling: cell 6: imports models, allowed rooms of models before 01_doubling"),
    (house.upward_imports, dict(more=["def f():\n    from neuralode_resnet import audit"]),
     "models/01_doubling: cell 6: imports audit, allowed doors before models"),
    (house.upward_imports, dict(more=["from ..audit.report import write"]), "models/01_doubling: cell 6: imports audit"),
    (house.upward_imports, dict(more=["import neuralode_resnet.sums"]),
     "models/01_doubling: cell 6: imports sums, which is no module of this house"),
    (house.undocumented_symbols, exported("def double(x):", "    return x + x"),
     "models/01_doubling: cell 3: double has neither docstring nor commented parameters"),
    (house.undocumented_symbols, dict(double='#| exports\nclass A:\n    "An A."\n    def f(self):\n        pass'),
     "models/01_doubling: cell 3: A.f has neither"),
    (house.undescribed_parameters, exported("def double(x, y):  # numbers", "    return x + y"),
     "models/01_doubling: cell 3: double: x and y share a line, allowed one parameter a line"),
    (house.undescribed_parameters, exported("def double(x,  # a number", "           y,", "           z):  # another", "    pass"),
     "models/01_doubling: cell 3: double: y has no comment"),
    (house.undescribed_parameters, exported("def double(*numbers, **more):  # numbers", "    pass"),
     "models/01_doubling: cell 3: double: numbers and more share a line"),
    (house.undescribed_parameters, exported("def double(x: int) -> int:  # a number", "    pass"),
     "models/01_doubling: cell 3: double: x shares its line with what is returned"),
    (house.undescribed_parameters, exported("def double(", "    x,  # …", "):", "    pass"),
     "models/01_doubling: cell 3: double: x has no comment"),
    (house.undescribed_parameters, exported("class A:", "    def __init__(self, x, y):  # numbers", "        pass"),
     "models/01_doubling: cell 3: A.__init__: x and y share a line"),
    (house.undescribed_parameters, exported("@dataclass(frozen=True)", "class A:", "    x: int  # a number", "    y: int"),
     "models/01_doubling: cell 3: A: y has no comment"),
    (house.crowded_lines, exported("def double(x): return x + x"),
     "models/01_doubling: cell 3: 'def double(x): return x + x' is more than one statement"),
    (house.crowded_lines, exported("if True: double = 2"), "models/01_doubling: cell 3: 'if True: double = 2'"),
    (house.crowded_lines, exported("if True:", "    a = 1", "else: a = 2"), "models/01_doubling: cell 3: 'else: a = 2'"),
    (house.crowded_lines, exported("a = 1; b = 2"), "models/01_doubling: cell 3: 'a = 1; b = 2'"),
    (house.crowded_lines, exported("for a in (1, 2): print(a)"), "models/01_doubling: cell 3: 'for a in (1, 2): print(a)'"),
    (house.crowded_lines, exported("with open(a) as b: print(b)"), "models/01_doubling: cell 3: 'with open(a) as b: print(b)'"),
    (house.crowded_lines, exported("class A(Exception): 'An A.'"), "models/01_doubling: cell 3: 'class A(Exception)"),
    (house.wide_lines, exported("double = " + 102 * "2"), "models/01_doubling: cell 3: a line of 111 columns, allowed 110"),
    (house.names_without_thing, dict(more=["As `solvers.stairs` says."]),
     "models/01_doubling: cell 6: `solvers.stairs` names nothing in neuralode_resnet"),
    (house.names_without_thing, dict(more=["As `neuralode_resnet.solvers.Stairs` says."]), "models/01_doubling: cell 6: `neuralode"),
    (house.names_without_thing, dict(more=["As `20_stairs.ipynb` says."]),
     "models/01_doubling: cell 6: `20_stairs.ipynb` names a notebook that does not exist"),
    (house.names_without_thing, dict(more=["As `solvers/01_stairs` says."]), "models/01_doubling: cell 6: `solvers/01_stairs`"),
    (house.names_without_thing, dict(more=["As [stairs](../solvers/01_stairs.ipynb) say."]),
     "models/01_doubling: cell 6: links to ../solvers/01_stairs.ipynb, which does not exist"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_rule_is_named_with_place_and_value(rule, changes, complaint, good):
    changes = dict(changes)
    found = rule(good(*changes.pop("more", []), **changes))
    assert any(line.startswith(complaint) for line in found), found


@pytest.mark.parametrize("rule, changes", [
    (house.misnamed_module, dict(name="plots", module="plots")),
    (house.undocumented_symbols, exported("def double(", "    x,  # a number", "):", "    return x + x")),
    (house.undescribed_parameters, exported("def double(x,  # a number", "           y=(1,  # more", "              2)):", "    pass")),
    (house.undescribed_parameters, exported("def double(", "    # a number", "    x,", "    *, y=2,  # another", "):", "    pass")),
    (house.undescribed_parameters, exported("def _double(x, y):", "    pass")),
    (house.undescribed_parameters, exported("@dataclass", "class A:", "    x: int  # a number", "    y: ClassVar[int] = 2")),
    (house.undescribed_parameters, exported("class A:", "    @property", "    def x(self):", "        pass",
                                            "    @x.setter", "    def x(self, x):", "        pass")),
    (house.crowded_lines, exported("double = lambda x: x + x", "try:", "    a = 1", "except ValueError:", "    a = 2", "else:",
                                   "    a = 3")),
    (house.crowded_lines, exported("if a:", "    b = {", "        1: 2,", "    }", "elif b:", "    a = [c for c in b]")),
    (house.upward_imports, dict(more=["from neuralode_resnet.datasets import load\nfrom neuralode_resnet import solvers"])),
    (house.names_without_thing, dict(more=["As `solvers.steps`, `solvers.Solver.parse()`, `Solver.parse`, `data.x`, "
                                           "`adaptation.csv` and `nbs/solvers/03_steps.ipynb` say."])),
], ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_allowed_gives_no_complaint(rule, changes, good):
    changes = dict(changes)
    found = rule(good(*changes.pop("more", []), **changes))
    assert [line for line in found if "no number" not in line] == []


def test_a_room_imports_those_before_it(good, tmp_path):
    good()
    for name, complaints in [("models/00_models", 0), ("models/02_after", 0), ("datasets/01_before", 1), ("audit/01_after", 0)]:
        path = notebook(tmp_path / "nbs" / f"{name}.ipynb", TITLE, f"#| default_exp {house.wanted_module(tmp_path / 'nbs' / name)}",
                        "%time\nimport neuralode_resnet.models.doubling")
        assert len(house.upward_imports(path)) == complaints, name


def test_a_module_in_any_folder_is_found(good, tmp_path):
    expected = {good(), good(name="01_doubling"), good(name="models/deeper/01_doubling")}
    notebook(tmp_path / "nbs" / "models" / ".hidden" / "01_doubling.ipynb", TITLE, "#| default_exp a")
    expected.add(notebook(tmp_path / "nbs" / "models" / "02_forgotten.ipynb", TITLE))  # it lies where modules lie
    expected.add(notebook(tmp_path / "nbs" / "paper" / "01_helper.ipynb", TITLE, "#| default_exp helper"))
    for page in ("paper/figure_1", "tutorials/01_first", "zoo/first", "index"):
        notebook(tmp_path / "nbs" / f"{page}.ipynb", TITLE)
    assert set(house.module_notebooks(tmp_path / "nbs")) == expected
    [complaint] = house.misnamed_module(tmp_path / "nbs" / "models" / "02_forgotten.ipynb")
    assert complaint == "models/02_forgotten: default_exp is None, allowed models.forgotten"


def test_a_number_is_there_once_and_has_no_letter(tmp_path):
    for name in ("01_first", "models/01_first", "models/01_second", "models/02b_third", "models/03_fourth", "paper/figure_1"):
        notebook(tmp_path / "nbs" / f"{name}.ipynb", TITLE)
    assert house.unclear_numbers(tmp_path / "nbs") == [
        "models/02b_third: a letter behind its number, allowed two digits",
        "models/01_first and models/01_second: the number 01 is used twice"]


def test_a_room_that_its_door_would_hide_is_found(good, tmp_path):
    good(), good(name="audit/01_doubling")
    for door, names in {"models": "doubling", "audit": "double"}.items():
        notebook(tmp_path / "nbs" / door / f"00_{door}.ipynb", TITLE, f"#| default_exp {door}.__init__",
                 f"#| export\n_all_ = ['{names}']")
    [complaint] = house.rooms_named_after_contents(tmp_path / "nbs")
    assert complaint.startswith("models/01_doubling: doubling is a name that the door models hands on")


def package(folder, **texts):
    "A package of these modules; `models__steps` lies behind a door, and `models__` is the door."
    for name, text in texts.items():
        door, _, room = name.rpartition("__")
        path = folder / door / f"{room or '__init__'}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_circles_are_found_between_rooms_and_between_doors(tmp_path):
    rooms = package(tmp_path / "rooms", models__a="from .b import x", models__b="def f():\n    from .a import y")
    assert house.circles(house.import_graph(rooms)) == ["a circle of imports: models.a -> models.b -> models.a"]
    doors = house.import_graph(package(tmp_path / "doors", models__a="from ..audit.b import x", models__c="", audit__b="",
                                       audit__d=f"import {house.PACKAGE}.models.c"))
    assert house.circles(doors) == []
    assert house.circles(house.doors_of(doors)) == ["a circle of imports: audit -> models -> audit"]


def test_a_door_is_a_node_of_the_graph(tmp_path):
    graph = house.import_graph(package(tmp_path, models__a="", models__="from .a import x",
                                       plots="from .models import x\nfrom . import models"))
    assert graph == {"models": {"models.a"}, "models.a": set(), "plots": {"models"}}


def test_many_floors_are_counted(tmp_path):
    texts = {f"m{i}": f"from .m{i + 1} import x" for i in range(9)}
    graph = house.import_graph(package(tmp_path, **texts, m9=""))
    [complaint] = house.many_floors(graph)
    assert complaint.startswith("9 floors, allowed 8: m0 -> m1 -> m2")
    assert house.many_floors({name: others for name, others in graph.items() if name != "m0"}) == []


def test_a_name_that_is_defined_twice_is_found(tmp_path):
    package(tmp_path, files="__all__ = ['read', 'write']", models__a="__all__ = ['read']",
            models__="__all__ = ['read']\n_all_ = ['read']")
    assert house.names_defined_twice(tmp_path) == ["read is defined in files and in models.a: one name, one meaning"]


@pytest.mark.parametrize("lines, complaint", [
    (["def double(", "    x,  # a number", "    *more,  # others", "    **named,  # others by name", "):", "    pass"], None),
    (["def double(", "    # a number", "    x,", "    y,  # another", "):", "    pass"], None),
    (["def double(", "    x,  # a number", "    /,", "):", "    pass"], "docments reads '' beside x, where the source says 'a number'"),
    (["def double(x, y):  # a number", "    pass"], "docments reads '' beside x, where the source says 'a number'"),
    (["def double(x):", "    pass"], "docments finds nothing beside x"),
    (["class A:", "    def __init__(self, x):  # a number", "        pass"], None),
    (["class A:", "    def f(self,", "          x):", "        pass"], "A.f: docments finds nothing beside x"),
    (["from dataclasses import dataclass", "@dataclass", "class A:", "    x: int  # a number", "    y: int  # another"], None),
    (["from functools import cache", "@cache", "def double(x):  # a number", "    pass"], None),
], ids=str)
def test_docments_reads_what_the_source_says(lines, complaint, tmp_path):
    path = tmp_path / "doubling.py"
    path.write_text("\n".join(lines))
    spec = importlib.util.spec_from_file_location(f"doubling{abs(hash(tmp_path))}", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = house.misread_parameters(module)
    assert len(found) == (complaint is not None) and (not complaint or complaint in found[0]), found


def test_wide_lines_of_a_module_are_found_where_they_are_not_nbdevs(tmp_path):
    wide = "x" * 111
    (tmp_path / "a.py").write_text(f'"""{wide}"""\n\n# %% auto #0\n__all__ = ["{wide}"]\n\n# %% ../nbs/a.ipynb #1\nx = 1\n{wide}\n')
    assert house.wide_module_lines(tmp_path / "a.py") == ["a.py: line 8 has 111 columns, allowed 110"]


def test_density_counts_what_is_there(tmp_path):
    package(tmp_path, models__a="x = 1\n\n# a comment\n", b="x = f(1, 2)\ny = 2\n")
    assert house.density([tmp_path / "models" / "a.py"]) == (4, 1)  # module, assignment, name, number
    assert house.density_report(tmp_path).splitlines() == ["nodes  lines  module", " 5.00      2  b", " 4.00      1  models.a", " 4.67      3  all"]


def test_large_output_is_found(good):
    path = good()
    nb = nbformat.read(path, as_version=4)
    nb.cells[4].outputs = [new_output("stream", text="x" * 400 * 1024)]
    nbformat.write(nb, path)
    assert house.large_outputs(path) == ["models/01_doubling: stored outputs 400 KB, allowed 300; the largest in cell 5, 400 KB"]


@pytest.mark.parametrize("cell, complaints", [
    ("assert double(2) == 4", 0), ("test_eq(double(2), 4)", 0), ("with pytest.raises(TypeError):\n    double(None)", 0),
    ("torch.testing.assert_close(double(one), two)", 0), ("double(2)", 1), ("assert 2 + 2 == 4", 1), ("#| export\nassert double(2)", 1),
])
def test_public_symbol_needs_a_cell_that_asserts(cell, complaints, tmp_path):
    path = notebook(tmp_path / "nbs" / "models" / "01_doubling.ipynb", TITLE, "#| default_exp models.doubling", DOUBLE, cell)
    package(tmp_path, models__doubling="__all__ = ['double', 'other']\n_all_ = ['other']\n")
    assert len(house.unasserted_symbols(path, lib=tmp_path)) == complaints


@pytest.mark.parametrize("source, complaints", [
    ("import torchvision", 1), ("try:\n    from torchvision.datasets import MNIST\nexcept ImportError:\n    pass", 1),
    ("def load():\n    import torchvision", 0), ("def load():\n    from fastcore.all import L", 1), ("import nbdev", 1),
    ("import torch", 0),
])
def test_heavy_import_is_found(source, complaints, tmp_path):
    (tmp_path / "module.py").write_text(source)
    assert len(house.heavy_imports(tmp_path / "module.py")) == complaints


@pytest.fixture
def project(good, tmp_path):
    "A project of one clean notebook and its export."
    shutil.copy(ROOT / "settings.ini", tmp_path)
    good()
    for command, folder in [("nbdev_clean", "nbs"), ("nbdev_export", "neuralode_resnet")]:
        (tmp_path / command).mkdir()
        copy = house._nbdev(command, tmp_path, tmp_path / command)
        shutil.copytree(copy / folder, tmp_path / folder, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def test_clean_notebooks_in_sync_give_no_complaint(project, work):
    (work / "a").mkdir(), (work / "b").mkdir()
    assert house.unclean_notebooks(project, work / "a") == [] == house.stale_export(project, work / "b")


def test_executed_notebook_is_not_clean(project, work):
    path = project / "nbs" / "models" / "01_doubling.ipynb"
    path.write_text(path.read_text().replace('"execution_count": null', '"execution_count": 7'))
    [complaint] = house.unclean_notebooks(project, work)
    assert complaint.startswith("nbs/models/01_doubling.ipynb") and "nbdev_clean" in complaint


@pytest.mark.parametrize("file", ["models/doubling.py", "models/orphan.py", "__init__.py"])
def test_module_edited_by_hand_is_out_of_sync(file, project, work):
    path = project / "neuralode_resnet" / file
    path.write_text(path.read_text().replace(SETTINGS["version"], "9.9.9") + "\n" if path.exists() else "")
    [complaint] = house.stale_export(project, work)
    assert complaint.startswith(f"neuralode_resnet/{file}") and "nbdev_export" in complaint


def test_second_mention_of_the_owner_is_found(tmp_path):
    for i, text in enumerate([f"https://github.com/{SETTINGS['user']}/x", f"{SETTINGS['user']}.github.io", SETTINGS["user"]]):
        (tmp_path / f"{i}.txt").write_text(f"\n{text}\n")
    found = house.owner_elsewhere(sorted(tmp_path.iterdir()))
    assert [line.split(" says")[0] for line in found] == ["0.txt: line 2", "1.txt: line 2"]


def test_ceiling_or_missing_floor_is_found():
    assert len(house.unbounded_requirements(["torch", "numpy<2", "scipy==1.12", "pandas>=2,<3", "jax[cpu]>=0.4"])) == 4


# The runner of notebooks

def test_failing_notebook_shows_its_traceback(good, runner):
    done = run_notebook(good("def f(): raise ValueError('the tolerance is 0')", "f()"), runner)
    assert done.code == 1 and "ValueError: the tolerance is 0" in done.output and "in f" in done.output


@pytest.mark.parametrize("slow, code", [(False, 0), (True, 1)])
def test_slow_cells_run_only_when_asked(slow, code, good, runner):
    assert run_notebook(good("#| slow\nraise ValueError"), runner, slow=slow).code == code


@pytest.mark.parametrize("assertion, said", [
    ("assert 1 + 1 == 3", "assert 2 == 3"),
    ("x = 2\nassert x < 1, 'too large'", "too large"),
    ("import torch\nassert torch.tensor([1., 2.]).sum() < 1", "assert tensor(3.) < 1"),
    ("def f(x):\n    return x\nassert f(2) == 2 and f(3) == 2", "assert (2 == 2 and 3 == 2)"),
    ("def f(x):\n    assert x % 2 == 0\nf(3)", "assert 1 == 0"),
    ("assert len([1, 2]) == 3", "where 2 = len([1, 2])"),
    ("from fastcore.test import test_eq\ntest_eq(1 + 1, 3)", "2\n3"),
])
def test_a_failing_assertion_shows_values(assertion, said, good, runner):
    done = run_notebook(good(assertion), runner)
    assert done.code == 1 and said in done.output


def test_rewritten_assertions_leave_their_notebook_as_it_was(good, runner):
    lines = ["%time x = 1", "'a last expression'", "assert x == 1 and not x < 1, x", "with open('/dev/null') as file:\n    assert file"]
    assert run_notebook(good(*lines), runner).code == 0


def test_nothing_of_a_notebook_reaches_the_next_one(good, runner):
    assert run_notebook(good("import os, torch, builtins\nbuiltins.left = os.environ['LEFT'] = '1'\n"
                             "torch.set_default_dtype(torch.float64)"), runner).code == 0
    assert run_notebook(good("import os, torch, builtins", "assert 'LEFT' not in os.environ and not hasattr(builtins, 'left')",
                             "assert torch.get_default_dtype() == torch.float32"), runner).code == 0


def test_a_notebook_that_crashes_is_named_and_the_next_one_runs(good, runner):
    done = run_notebook(good("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"), runner)
    assert done.code < 0 and "SIGSEGV" in done.output
    assert run_notebook(good(), runner).code == 0


@pytest.mark.parametrize("cell, limits, said", [
    ("while True: pass", dict(cpu=2), r"stopped: it took \d+ s of processor time, allowed 2"),
    ("import time\ntime.sleep(60)", dict(wall=2), "stopped after 2 s"),
])
def test_an_endless_notebook_is_stopped(cell, limits, said, good, runner):
    done = runner.run(good(cell), **limits)
    assert done.code != 0 and re.search(said, done.output)


def test_waiting_for_the_processor_is_no_fault(good, runner):
    assert runner.run(good("import time\ntime.sleep(3)"), cpu=2).code == 0
