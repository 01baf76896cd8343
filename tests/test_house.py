"""The house rules, held to by this project: one test a rule, one item a notebook."""
import ast
import runpy
import subprocess

import house
import pytest
from house import LIB, NBS, PACKAGE, ROOT, SETTINGS, notebook_id


def of(paths):
    return pytest.mark.parametrize("path", paths, ids=notebook_id)


every_notebook = of(house.notebooks(NBS))
# the front page is a text with little code
every_notebook_but_index = of([path for path in house.notebooks(NBS) if path != NBS / "index.ipynb"])
every_module = of(house.module_notebooks(NBS))


def check(complaints):
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@every_notebook
def test_few_cells(path):
    check(house.too_many_cells(path))


@every_notebook
def test_little_code(path):
    check(house.too_much_code(path))


@every_module
def test_no_exported_cell_is_long(path):
    check(house.long_exported_cells(path))


@every_module
def test_most_exported_cells_are_short(path):
    check(house.mostly_long_exported_cells(path))


@every_notebook_but_index
def test_prose_and_code_are_in_balance(path):
    check(house.unbalanced_prose(path))


@every_notebook
def test_stored_outputs_are_small(path):
    check(house.large_outputs(path))


@every_module
def test_module_is_named_for_what_it_holds(path):
    check(house.misnamed_module(path))


@every_module
def test_notebook_opens_with_title_and_claim(path):
    check(house.missing_title(path))


@every_module
def test_imports_go_down(path):
    check(house.upward_imports(path))


@every_module
def test_public_symbols_are_used_in_a_cell_that_asserts(path):
    check(house.unasserted_symbols(path))


@every_module
def test_public_symbols_are_documented(path):
    check(house.undocumented_symbols(path))


@pytest.mark.parametrize("module", sorted(LIB.rglob("*.py")), ids=lambda path: path.stem)
def test_importing_is_light(module):
    check(house.heavy_imports(module))


def test_notebooks_are_clean(tmp_path):
    check(house.unclean_notebooks(ROOT, tmp_path))


def test_export_is_in_sync(tmp_path):
    check(house.stale_export(ROOT, tmp_path))


def test_readme_is_the_front_page():
    made = runpy.run_path(str(ROOT / "docs" / "readme.py"))["readme"]()
    stored = ROOT / "README.md"
    if not stored.exists() or stored.read_text(encoding="utf-8") != made:
        pytest.fail("README.md is not what nbs/index.ipynb gives: run `python docs/readme.py`", pytrace=False)


def test_owner_is_named_once():
    try:
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                                cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git cannot list the files of the project")
    # nbdev copies the addresses from settings.ini into its index of symbols
    exempt = {ROOT / "settings.ini", LIB / "_modidx.py"}
    files = [ROOT / name for name in listed.split("\0") if name]
    check(house.owner_elsewhere([path for path in files if path.is_file() and path not in exempt]))


def test_requirements_have_floors_and_no_ceilings():
    extras = ("requirements", "bench_requirements", "docs_requirements")
    check(house.unbounded_requirements([line for extra in extras for line in SETTINGS[extra].split()]))


def test_package_has_the_version_of_the_settings():
    assert f'__version__ = "{SETTINGS["version"]}"' in (LIB / "__init__.py").read_text(encoding="utf-8")


def test_command_line_starts_at_a_public_function():
    _, target = SETTINGS["console_scripts"].split("=")
    module, function = target.split(":")
    package, name = module.split(".")
    defined = ast.parse((LIB / f"{name}.py").read_text(encoding="utf-8")).body
    assert package == PACKAGE and function in {getattr(node, "name", None) for node in defined}
