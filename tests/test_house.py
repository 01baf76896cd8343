"""The house rules, held to by this project: one test a rule, one item a notebook or a module."""
import ast
import importlib
import re
import runpy
import subprocess

import house
import pytest
from house import LIB, NBS, PACKAGE, ROOT, SETTINGS, notebook_id

MODULES = house.module_notebooks(NBS)
FILES = [path for path in sorted(LIB.rglob("*.py")) if path.name != "_modidx.py"]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def file_id(path):
    return path.relative_to(LIB).with_suffix("").as_posix()


every_notebook = pytest.mark.parametrize("path", house.notebooks(NBS), ids=notebook_id)
every_module = pytest.mark.parametrize("path", MODULES, ids=notebook_id)
every_file = pytest.mark.parametrize("file", FILES, ids=file_id)


def check(complaints):
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@every_notebook
def test_stored_outputs_are_small(path):
    check(house.large_outputs(path))


@every_notebook
def test_prose_names_what_exists(path):
    check(house.names_without_thing(path))


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


@every_module
def test_every_parameter_has_a_line_and_a_comment(path):
    check(house.undescribed_parameters(path))


@every_module
def test_a_line_holds_one_statement(path):
    check(house.crowded_lines(path))


@every_module
def test_lines_fit_the_screen(path):
    check(house.wide_lines(path))


@every_file
def test_exported_lines_fit_the_screen(file):
    check(house.wide_module_lines(file))


@every_file
def test_importing_is_light(file):
    check(house.heavy_imports(file))


@every_file
def test_every_parameter_is_read_as_it_was_described(file):
    module = ".".join([PACKAGE, *file.relative_to(LIB).with_suffix("").parts]).removesuffix(".__init__")
    check(house.misread_parameters(importlib.import_module(module)))


# The house as a whole

def test_no_module_escapes_the_rules():
    "A notebook that moves into a folder must not leave its checks behind: all that name a module are in the lists above."
    saying_so = {path for path in NBS.rglob("*.ipynb") if "checkpoint" not in path.as_posix()
                 and re.search(r'"#\s*\|\s*default_exp', path.read_text(encoding="utf-8"))}
    assert saying_so == set(MODULES), [notebook_id(path) for path in saying_so ^ set(MODULES)]
    written = {LIB / "__init__.py", *(house.module_file(house.module_name(path)) for path in MODULES)}
    assert written == set(FILES), [file_id(path) for path in written ^ set(FILES)]
    covers = {"path": set(MODULES), "file": set(FILES)}
    rules = {name: mark.args for name, test in globals().items() for mark in getattr(test, "pytestmark", [])
             if mark.name == "parametrize" and mark.args[0] in covers}
    for rule, (argument, items) in rules.items():
        assert set(items) >= covers[argument], f"{rule} leaves out modules"
    print(f"\n{sum(len(items) for _, items in rules.values())} checks: {len(rules)} rules, {len(house.notebooks(NBS))} notebooks, "
          f"{len(MODULES)} modules")


def test_there_are_no_circles_of_imports():
    graph = house.import_graph()
    check(house.circles(graph) + house.circles(house.doors_of(graph)))


def test_the_house_has_few_floors():
    check(house.many_floors(house.import_graph()))


def test_no_room_is_named_after_what_its_door_hands_on():
    check(house.rooms_named_after_contents(NBS))


def test_numbers_say_the_order():
    check(house.unclear_numbers(NBS))


def test_a_name_is_defined_once():
    check(house.names_defined_twice())


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_texts_name_what_exists(text):
    check(house.names_without_thing(text))


def test_density_is_printed_and_not_enforced():
    report = house.density_report()
    print(f"\n{house.summary()}\n{report}")
    assert report.splitlines()[-1].endswith("  all")


# Files that are made, and settings

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


def test_every_door_is_installed():
    setuptools = pytest.importorskip("setuptools")
    found = setuptools.find_packages(str(ROOT), include=[PACKAGE, f"{PACKAGE}.*"])
    assert set(found) == {".".join(file.parent.relative_to(ROOT).parts) for file in FILES}


def test_command_line_starts_at_a_public_function():
    _, target = SETTINGS["console_scripts"].split("=")
    module, function = target.split(":")
    package, _, name = module.partition(".")
    defined = ast.parse(house.module_file(name).read_text(encoding="utf-8")).body
    assert package == PACKAGE and function in {getattr(node, "name", None) for node in defined}
