"""A rule that cannot fail checks nothing: each is broken here by a small notebook, and named in the complaint."""
import shutil

import house
import nbformat
import pytest
from house import ROOT, SETTINGS
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_notebooks import run_notebook

TITLE = "# Doubling\n\n> Twice a number is the number added to itself."
DOUBLE = '#| export\ndef double(x):\n    "`x` twice."\n    return x + x'


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
    "A notebook without fault, to be changed in one way."
    def make(*more, name="01_doubling", title=TITLE, double=DOUBLE):
        return notebook(tmp_path / "nbs" / f"{name}.ipynb", title, "#| default_exp doubling", double,
                        "Two and two make four.\n\nSo do these.", "assert double(2) == 4", *more)
    return make


RULES = [house.too_many_cells, house.too_much_code, house.long_exported_cells, house.mostly_long_exported_cells,
         house.unbalanced_prose, house.large_outputs, house.misnamed_module, house.missing_title, house.upward_imports,
         house.undocumented_symbols]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_gives_no_complaint(rule, good):
    assert rule(good()) == []


def lines(n):
    return "\n".join(["x = 1"] * n)


@pytest.mark.parametrize("rule, changes, complaint", [
    (house.too_many_cells, dict(more=["x = 1"] * 56), "01_doubling: 61 cells, allowed 60"),
    (house.too_much_code, dict(more=[lines(297)]), "01_doubling: 301 lines of code, allowed 300"),
    (house.long_exported_cells, dict(double="#| export\n" + lines(46)), "01_doubling: cell 3: 46 exported lines, allowed 45"),
    (house.mostly_long_exported_cells, dict(double="#| export\n" + lines(21)),
     "01_doubling: 90th percentile of exported cells 21.0 lines, allowed 20"),
    (house.unbalanced_prose, dict(more=[lines(10)]), "01_doubling: 4 lines of prose to 14 of code are 0.29, allowed 0.5 to 1.5"),
    (house.unbalanced_prose, dict(more=["A" * 361]), "01_doubling: 8 lines of prose to 4 of code are 2.00, allowed 0.5 to 1.5"),
    (house.misnamed_module, dict(name="01_halving"), "01_halving: default_exp is doubling, allowed halving"),
    (house.misnamed_module, dict(name="doubling"), "doubling: no number"),
    (house.misnamed_module, dict(name="01_utils"), "01_utils: utils does not say what the module holds"),
    (house.missing_title, dict(title="# Doubling"), "01_doubling: cell 1: begins with ['# Doubling']"),
    (house.upward_imports, dict(more=["from neuralode_resnet.doubling import double"]),
     "01_doubling: cell 6: imports doubling of 01_doubling, allowed notebooks before 01_doubling"),
    (house.upward_imports, dict(more=["def f():\n    from neuralode_resnet import doubling"]), "01_doubling: cell 6"),
    (house.upward_imports, dict(more=["from .doubling import double"]), "01_doubling: cell 6"),
    (house.undocumented_symbols, dict(double="#| export\ndef double(x):\n    return x + x"),
     "01_doubling: cell 3: double has neither docstring nor commented parameters"),
    (house.undocumented_symbols, dict(double='#| exports\nclass A:\n    "An A."\n    def f(self):\n        pass'),
     "01_doubling: cell 3: A.f has neither"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_rule_is_named_with_place_and_value(rule, changes, complaint, good):
    changes = dict(changes)
    found = rule(good(*changes.pop("more", []), **changes))
    assert any(line.startswith(complaint) for line in found), found


def test_commented_parameters_are_documentation(good):
    assert house.undocumented_symbols(good(double="#| export\ndef double(\n    x,  # a number\n):\n    return x + x")) == []


def test_downward_import_is_allowed_and_upward_is_not(good, tmp_path):
    good()
    for name, complaints in [("00_before", 1), ("02_after", 0)]:
        path = notebook(tmp_path / "nbs" / f"{name}.ipynb", TITLE, f"#| default_exp {name[3:]}",
                        "%time\nimport neuralode_resnet.doubling")
        assert len(house.upward_imports(path)) == complaints


def test_large_output_is_found(good):
    path = good()
    nb = nbformat.read(path, as_version=4)
    nb.cells[4].outputs = [new_output("stream", text="x" * 400 * 1024)]
    nbformat.write(nb, path)
    assert house.large_outputs(path) == ["01_doubling: stored outputs 400 KB, allowed 300; the largest in cell 5, 400 KB"]


@pytest.mark.parametrize("cell, complaints", [
    ("assert double(2) == 4", 0), ("test_eq(double(2), 4)", 0), ("with pytest.raises(TypeError):\n    double(None)", 0),
    ("torch.testing.assert_close(double(one), two)", 0), ("double(2)", 1), ("assert 2 + 2 == 4", 1), ("#| export\nassert double(2)", 1),
])
def test_public_symbol_needs_a_cell_that_asserts(cell, complaints, tmp_path):
    path = notebook(tmp_path / "01_doubling.ipynb", TITLE, "#| default_exp doubling", DOUBLE, cell)
    (tmp_path / "doubling.py").write_text("__all__ = ['double']\n")
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
    path = project / "nbs" / "01_doubling.ipynb"
    path.write_text(path.read_text().replace('"execution_count": null', '"execution_count": 7'))
    [complaint] = house.unclean_notebooks(project, work)
    assert complaint.startswith("nbs/01_doubling.ipynb") and "nbdev_clean" in complaint


@pytest.mark.parametrize("file", ["doubling.py", "orphan.py", "__init__.py"])
def test_module_edited_by_hand_is_out_of_sync(file, project, work):
    path = project / "neuralode_resnet" / file
    path.write_text(path.read_text().replace("0.0.1", "0.0.2") + "\n" if path.exists() else "")
    [complaint] = house.stale_export(project, work)
    assert complaint.startswith(f"neuralode_resnet/{file}") and "nbdev_export" in complaint


def test_second_mention_of_the_owner_is_found(tmp_path):
    for i, text in enumerate([f"https://github.com/{SETTINGS['user']}/x", f"{SETTINGS['user']}.github.io", SETTINGS["user"]]):
        (tmp_path / f"{i}.txt").write_text(f"\n{text}\n")
    found = house.owner_elsewhere(sorted(tmp_path.iterdir()))
    assert [line.split(" says")[0] for line in found] == ["0.txt: line 2", "1.txt: line 2"]


def test_ceiling_or_missing_floor_is_found():
    assert len(house.unbounded_requirements(["torch", "numpy<2", "scipy==1.12", "pandas>=2,<3", "jax[cpu]>=0.4"])) == 4


def test_failing_notebook_shows_its_traceback(good):
    done = run_notebook(good("def f(): raise ValueError('the tolerance is 0')", "f()"))
    assert done.returncode and "ValueError: the tolerance is 0" in done.stdout and "in f" in done.stdout


@pytest.mark.parametrize("slow, fails", [(False, False), (True, True)])
def test_slow_cells_run_only_when_asked(slow, fails, good):
    assert bool(run_notebook(good("#| slow\nraise ValueError"), slow=slow).returncode) == fails
