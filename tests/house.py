"""The house rules, as functions of notebooks and modules. Each returns its complaints, one line each; none means kept.

`test_house.py` applies them to this project, `test_house_can_fail.py` to small notebooks that break them.
"""
import ast
import json
import math
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
import numpy as np
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent
_parser = ConfigParser(delimiters=["="])
_parser.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = _parser["DEFAULT"]
PACKAGE = SETTINGS["lib_name"]
NBS, LIB = ROOT / SETTINGS["nbs_path"], ROOT / SETTINGS["lib_path"]

MAX_CELLS = 60
MAX_CODE_LINES = 300
MAX_EXPORTED_LINES, MAX_EXPORTED_LINES_P90 = 45, 20
PROSE_PER_CODE = (0.5, 1.5)
PROSE_WIDTH = 120  # a longer line of prose counts as the lines that it fills
MAX_OUTPUT_KB = 300
EMPTY_NAMES = {"utils", "core", "common", "types"}  # say nothing about what a module holds


# Notebooks, cells, lines

def notebooks(
    folder: Path,
) -> list[Path]:  # all notebooks below, without those that nbdev ignores too
    def ignored(path):
        return any(part[0] in "_." for part in path.relative_to(folder).parts)
    return sorted(path for path in folder.rglob("*.ipynb") if not ignored(path))


def module_notebooks(folder: Path) -> list[Path]:
    return [path for path in notebooks(folder) if path.parent == folder and path.stem != "index"]


def notebook_id(path: Path) -> str:
    return path.relative_to(NBS).with_suffix("").as_posix()


def cells(path: Path, kind=None) -> list[tuple[str, nbformat.NotebookNode]]:
    "Pairs of where a cell is (counted from 1, as in tracebacks) and the cell; `kind` is one of code, markdown, exported, shown."
    nb = nbformat.read(path, as_version=4)
    found = [(f"{path.stem}: cell {i}", cell) for i, cell in enumerate(nb.cells, 1)]
    if kind in ("exported", "shown"):
        code = [(where, cell) for where, cell in found if cell.cell_type == "code"]
        return [(where, cell) for where, cell in code if is_exported(cell) == (kind == "exported")]
    return [(where, cell) for where, cell in found if kind in (None, cell.cell_type)]


def directives(cell) -> dict[str, str]:
    return dict(re.findall(r"^\s*#\s*\|\s*(\w+):?[ \t]*(.*)$", cell.source, re.MULTILINE))


def is_exported(cell) -> bool:
    return not directives(cell).keys().isdisjoint({"export", "exports", "exporti"})


def code_lines(cell) -> int:
    return sum(bool(line.strip()) and not re.match(r"\s*#\s*\|", line) for line in cell.source.splitlines())


def prose_lines(cell) -> int:
    return sum(math.ceil(len(line) / PROSE_WIDTH) for line in cell.source.splitlines() if line.strip())


def syntax(source: str) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(source))


# Budgets

def too_many_cells(path):
    n = len(cells(path))
    return [f"{path.stem}: {n} cells, allowed {MAX_CELLS}"] if n > MAX_CELLS else []


def too_much_code(path):
    n = sum(code_lines(cell) for _, cell in cells(path, "code"))
    return [f"{path.stem}: {n} lines of code, allowed {MAX_CODE_LINES}"] if n > MAX_CODE_LINES else []


def long_exported_cells(path):
    lengths = {where: code_lines(cell) for where, cell in cells(path, "exported")}
    return [f"{where}: {n} exported lines, allowed {MAX_EXPORTED_LINES}"
            for where, n in lengths.items() if n > MAX_EXPORTED_LINES]


def mostly_long_exported_cells(path):
    lengths = {where: code_lines(cell) for where, cell in cells(path, "exported")}
    p90 = np.percentile([*lengths.values()], 90) if lengths else 0
    if p90 <= MAX_EXPORTED_LINES_P90:
        return []
    longest = [f"{where}: {n} exported lines" for where, n in lengths.items() if n > MAX_EXPORTED_LINES_P90]
    return [f"{path.stem}: 90th percentile of exported cells {p90:.1f} lines, allowed {MAX_EXPORTED_LINES_P90}", *longest]


def unbalanced_prose(path):
    prose = sum(prose_lines(cell) for _, cell in cells(path, "markdown"))
    code = sum(code_lines(cell) for _, cell in cells(path, "code"))
    ratio, (low, high) = prose / max(code, 1), PROSE_PER_CODE
    if low <= ratio <= high:
        return []
    return [f"{path.stem}: {prose} lines of prose to {code} of code are {ratio:.2f}, allowed {low} to {high}"]


def large_outputs(path):
    sizes = {where: len(json.dumps(cell.outputs)) / 1024 for where, cell in cells(path, "code")}
    total = sum(sizes.values())
    if total <= MAX_OUTPUT_KB:
        return []
    largest = max(sizes, key=sizes.get)
    return [f"{path.stem}: stored outputs {total:.0f} KB, allowed {MAX_OUTPUT_KB}; "
            f"the largest in {largest.split(': ')[1]}, {sizes[largest]:.0f} KB"]


# Names and headings

def module_name(path: Path) -> str | None:  # None: the notebook exports no module
    names = [directives(cell)["default_exp"] for _, cell in cells(path, "code") if "default_exp" in directives(cell)]
    return names[0].strip() if names else None


def misnamed_module(path):
    number, name = re.fullmatch(r"(\d\d[a-z]?_)?(.*)", path.stem).groups()
    module, complaints = module_name(path), []
    if not number:
        complaints.append(f"{path.stem}: no number; a notebook that is not a module belongs to a subfolder")
    if module != name:
        complaints.append(f"{path.stem}: default_exp is {module}, allowed {name}")
    if name in EMPTY_NAMES:
        complaints.append(f"{path.stem}: {name} does not say what the module holds")
    return complaints


def missing_title(path):
    where, first = cells(path)[0]
    lines = [line for line in first.source.splitlines() if line.strip()]
    starts = [line[:2] for line in lines[:2]]
    if first.cell_type == "markdown" and starts == ["# ", "> "]:
        return []
    return [f"{where}: begins with {lines[:2]}, allowed '# title', then '> claim'"]


# Imports

def imported(nodes) -> list[str]:
    "Dotted names of everything imported; relative imports count as ours."
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = ".".join(filter(None, [PACKAGE if node.level else None, node.module]))
            names += [f"{source}.{alias.name}" for alias in node.names]
    return names


def upward_imports(path):
    "A module stands on those with smaller numbers only; this also keeps each decade off the next."
    notebook_of = {module_name(other): other.stem for other in module_notebooks(path.parent)}
    complaints = []
    for where, cell in cells(path, "code"):
        ours = {name.split(".")[1] for name in imported(ast.walk(syntax(cell.source))) if name.startswith(f"{PACKAGE}.")}
        complaints += [f"{where}: imports {module} of {notebook_of[module]}, allowed notebooks before {path.stem}"
                       for module in sorted(ours & notebook_of.keys()) if notebook_of[module] >= path.stem]
    return complaints


def at_import_time(tree):
    "The nodes that run when a module is imported: all but the bodies of functions."
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def heavy_imports(module: Path):
    "torchvision takes seconds to import and few commands need it; nbdev and fastcore are not there for users at all."
    tree = ast.parse(module.read_text(encoding="utf-8"))
    at_once = {name.split(".")[0] for name in imported(at_import_time(tree))}
    ever = {name.split(".")[0] for name in imported(ast.walk(tree))}
    return ([f"{module.name}: imports torchvision at import time, allowed inside functions"] * ("torchvision" in at_once)
            + [f"{module.name}: imports {name}, allowed in notebooks only" for name in sorted(ever & {"nbdev", "fastcore"})])


# Public symbols

def public_names(module: Path) -> list[str]:
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def names_in(tree) -> set[str]:
    return {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(tree)}


def asserts(tree) -> bool:
    "An `assert`, or a call such as `test_eq`, `assert_close` or `pytest.raises`."
    calls = (ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call))
    return (any(isinstance(node, ast.Assert) for node in ast.walk(tree))
            or any(name.startswith(("test_", "assert_")) or "raises" in name for name in calls))


def unasserted_symbols(path, lib=LIB):
    trees = [syntax(cell.source) for _, cell in cells(path, "shown")]
    used = set().union(*(names_in(tree) for tree in trees if asserts(tree)))
    names = public_names(lib / f"{module_name(path)}.py")
    return [f"{path.stem}: {name} is in no cell that asserts, allowed none" for name in names if name not in used]


def is_documented(node, source: str) -> bool:
    "A docstring, or comments beside the parameters."
    signature = source.splitlines()[node.lineno - 1:node.body[0].lineno - 1]
    return bool(ast.get_docstring(node)) or any(re.search(r"#\s*\w", line) for line in signature)


def undocumented_symbols(path):
    kinds, complaints = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef), []
    for where, cell in cells(path, "exported"):
        if "exporti" in directives(cell):
            continue
        top = [node for node in syntax(cell.source).body if isinstance(node, kinds)]
        named = [(node.name, node) for node in top]
        named += [(f"{cls.name}.{node.name}", node) for cls in top if isinstance(cls, ast.ClassDef)
                  for node in cls.body if isinstance(node, kinds) and not re.search(r"\.setter", ast.unparse(node))]
        public = [(name, node) for name, node in named if not any(part[0] == "_" for part in name.split("."))]
        complaints += [f"{where}: {name} has neither docstring nor commented parameters"
                       for name, node in public if not is_documented(node, cell.source)]
    return complaints


# Generated files

def _nbdev(command: str, root: Path, folder: Path) -> Path:
    "Runs nbdev's `command` on a copy of the project at `root`, and never on the project itself."
    copy = folder / "copy"
    copy.mkdir()
    shutil.copy(root / "settings.ini", copy)
    shutil.copytree(root / NBS.name, copy / NBS.name)
    if (init := root / LIB.name / "__init__.py").exists():
        (copy / LIB.name).mkdir()
        shutil.copy(init, copy / LIB.name)
    module = {"nbdev_clean": "nbdev.clean", "nbdev_export": "nbdev.doclinks"}[command]
    subprocess.run([sys.executable, "-c", f"from {module} import {command}; {command}()"], cwd=copy, check=True)
    return copy


def _differences(ours: Path, fresh: Path, pattern: str, remedy: str) -> list[str]:
    def texts(folder):
        return {path.relative_to(folder): path.read_text(encoding="utf-8") for path in folder.rglob(pattern)}
    a, b = texts(ours), texts(fresh)
    return [f"{ours.name}/{path.as_posix()} differs from what `{remedy}` makes of it: run it"
            for path in sorted(a.keys() | b.keys()) if a.get(path) != b.get(path)]


def unclean_notebooks(root: Path, folder: Path):
    copy = _nbdev("nbdev_clean", root, folder)
    return _differences(root / NBS.name, copy / NBS.name, "*.ipynb", "nbdev_clean")


def stale_export(root: Path, folder: Path):
    "The export starts from an empty package, so that a module without a notebook is found as well."
    copy = _nbdev("nbdev_export", root, folder)
    return _differences(root / LIB.name, copy / LIB.name, "*.py", "nbdev_export")


# Settings

def owner_elsewhere(files: list[Path], user=SETTINGS["user"]):
    address = re.compile(rf"github\.com[/:]{re.escape(user)}|{re.escape(user)}\.github\.io")
    complaints = []
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
            if match := address.search(line):
                complaints.append(f"{path.name}: line {number} says {match[0]}, allowed in settings.ini only")
    return complaints


def unbounded_requirements(requirements: list[str]):
    return [f"settings.ini: {requirement}, allowed name>=version" for requirement in requirements
            if not re.fullmatch(r"[\w.-]+(\[\w+\])?>=[\d.]+", requirement)]
