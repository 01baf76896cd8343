"""The house rules, as functions of notebooks and modules. Each returns its complaints, one line each; none means kept.

`test_house.py` applies them to this project, `test_house_can_fail.py` to small notebooks that break them. Names of modules
are dotted names below the package, `solvers.steps`; a door is the package of a folder, `solvers`.
`python tests/house.py -v` prints the density of the code, which nothing enforces.
"""
import ast
import functools
import inspect
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
from collections import defaultdict
from configparser import ConfigParser
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent
_parser = ConfigParser(delimiters=["="])
_parser.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = _parser["DEFAULT"]
PACKAGE = SETTINGS["lib_name"]
NBS, LIB = ROOT / SETTINGS["nbs_path"], ROOT / SETTINGS["lib_path"]

DOORS = SETTINGS["doors"].split()  # from the ground to the roof: a door imports from those before it
PAGES = ["paper", "tutorials", "zoo"]  # folders for readers: their notebooks need not be modules
MAX_FLOORS = 8  # imports on the longest way down from a door
MAX_COLUMNS = 110
MAX_OUTPUT_KB = 300
EMPTY_NAMES = {"utils", "core", "common", "types"}  # say nothing about what a module holds


# Notebooks and cells

def notebooks(
    folder: Path,
) -> list[Path]:  # all notebooks below, without those that nbdev ignores too
    def ignored(path):
        return any(part[0] in "_." for part in path.relative_to(folder).parts)
    return sorted(path for path in folder.rglob("*.ipynb") if not ignored(path))


def module_notebooks(
    folder: Path,
) -> list[Path]:  # at any depth: those that export a module, or lie where only those may lie
    def is_page(path):
        return path.name == "index.ipynb" or path.relative_to(folder).parts[0] in PAGES
    return [path for path in notebooks(folder) if module_name(path) or not is_page(path)]


def notebook_id(
    path: Path,
) -> str:  # below the folder of notebooks, without ending: `solvers/03_steps`
    parts = path.with_suffix("").parts
    start = len(parts) - parts[::-1].index(NBS.name) if NBS.name in parts else len(parts) - 1
    return "/".join(parts[start:])


def cells(path: Path, kind=None) -> list[tuple[str, nbformat.NotebookNode]]:
    """Pairs of where a cell is (counted from 1, as in tracebacks) and the cell; `kind` is one of code, markdown, exported,
    shown."""
    found = _read(path, path.stat().st_mtime_ns)
    if kind in ("exported", "shown"):
        code = [(where, cell) for where, cell in found if cell.cell_type == "code"]
        return [(where, cell) for where, cell in code if is_exported(cell) == (kind == "exported")]
    return [(where, cell) for where, cell in found if kind in (None, cell.cell_type)]


@functools.cache
def _read(path, time):
    nb = nbformat.read(path, as_version=4)
    return [(f"{notebook_id(path)}: cell {i}", cell) for i, cell in enumerate(nb.cells, 1)]


def directives(cell) -> dict[str, str]:
    return dict(re.findall(r"^\s*#\s*\|\s*(\w+):?[ \t]*(.*)$", cell.source, re.MULTILINE))


def is_exported(cell) -> bool:
    return not directives(cell).keys().isdisjoint({"export", "exports", "exporti"})


def syntax(source: str) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(source))


def large_outputs(path):
    sizes = {where: len(json.dumps(cell.outputs)) / 1024 for where, cell in cells(path, "code")}
    total = sum(sizes.values())
    if total <= MAX_OUTPUT_KB:
        return []
    largest = max(sizes, key=sizes.get)
    return [f"{notebook_id(path)}: stored outputs {total:.0f} KB, allowed {MAX_OUTPUT_KB}; "
            f"the largest in {largest.split(': ')[1]}, {sizes[largest]:.0f} KB"]


# Names and headings

def module_name(
    path: Path,
) -> str | None:  # as the notebook says it, `solvers.__init__` for a door; None: it exports no module
    names = [directives(cell)["default_exp"] for _, cell in cells(path, "code") if "default_exp" in directives(cell)]
    return names[0].strip() if names else None


def module_file(module: str, lib=LIB) -> Path:
    return lib / f"{module.replace('.', '/')}.py"


def dotted(module: str) -> str:
    "As it is imported: `solvers.__init__` is `solvers`."
    return module.removesuffix(".__init__")


def wanted_module(path: Path) -> str:
    "What the path of a notebook promises: nbs/solvers/00_solvers is `solvers.__init__`, nbs/solvers/03_steps `solvers.steps`."
    *folders, stem = notebook_id(path).split("/")
    number, name = re.fullmatch(r"(\d*[a-z]?_)?(.*)", stem).groups()
    is_door = folders and number == "00_" and name == folders[-1]
    return ".".join([*folders, "__init__" if is_door else name])


def misnamed_module(path):
    where, module, wanted = notebook_id(path), module_name(path), wanted_module(path)
    *folders, name = dotted(wanted).split(".")
    door = [*folders, name][0]
    complaints = []
    if not re.match(r"\d\d_", path.name):
        complaints.append(f"{where}: no number of two digits and an underscore; a notebook that is not a module belongs to "
                          f"{' or '.join(PAGES)}")
    if module != wanted:
        complaints.append(f"{where}: default_exp is {module}, allowed {wanted}")
    if name in EMPTY_NAMES:
        complaints.append(f"{where}: {name} does not say what the module holds")
    if door not in DOORS and door not in PAGES:
        complaints.append(f"{where}: {door} is no door of this house; a new one gets its place in `doors` of settings.ini")
    return complaints


def rooms_named_after_contents(folder: Path):
    "`audit.audit` would be hidden by the function that the door hands on under this name."
    complaints = []
    for path in module_notebooks(folder):
        door, _, room = (module_name(path) or "").partition(".")
        if room and room in _handed_on(folder, door):
            complaints.append(f"{notebook_id(path)}: {room} is a name that the door {door} hands on: name the room otherwise")
    return complaints


def _handed_on(folder, door):
    opening = folder / door / f"00_{door}.ipynb"
    trees = [syntax(cell.source) for _, cell in cells(opening, "exported")] if opening.exists() else []
    return {name for tree in trees for name in _list_named("_all_", tree)}


def unclear_numbers(folder: Path):
    "Numbers say the order within a folder, so each is there once, and has no letter behind it."
    complaints, taken = [], defaultdict(list)
    for path in notebooks(folder):
        if found := re.match(r"(\d+)([a-z]?)_", path.name):
            taken[path.parent, found[1]].append(path)
            if found[2]:
                complaints.append(f"{notebook_id(path)}: a letter behind its number, allowed two digits")
    return complaints + [f"{' and '.join(map(notebook_id, paths))}: the number {number} is used twice"
                         for (_, number), paths in taken.items() if len(paths) > 1]


def missing_title(path):
    where, first = cells(path)[0]
    lines = [line for line in first.source.splitlines() if line.strip()]
    starts = [line[:2] for line in lines[:2]]
    if first.cell_type == "markdown" and starts == ["# ", "> "]:
        return []
    return [f"{where}: begins with {lines[:2]}, allowed '# title', then '> claim'"]


# Imports

def imported(nodes, package="") -> list[str]:
    "Dotted names of everything imported; relative imports start at `package`, the dotted name of ours that holds them."
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join([PACKAGE, *filter(None, package.split("."))]).split(".") if node.level else []
            source = ".".join([*start[:len(start) - max(node.level - 1, 0)], *filter(None, [node.module])])
            names += [f"{source}.{alias.name}" for alias in node.names]
    return names


def ours(names: list[str], modules) -> set[str]:
    "Those of `modules` that the imported names lead to: of `solvers.steps.march` the room, of `solvers.Solver` the door."
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == PACKAGE and len(parts) > 1:
            known = [".".join(parts[1:end]) for end in range(2, len(parts) + 1)]
            found.add(next((known_one for known_one in reversed(known) if known_one in modules), parts[1]))
    return found


def upward_imports(path):
    """A door stands on the doors before it, a room on those with smaller numbers behind the same door. The notebook of the
    door itself may import its rooms. Cells that test obey as well."""
    folder = path.parents[len(notebook_id(path).split("/")) - 1]
    notebook_of = {dotted(module_name(other)): other for other in module_notebooks(folder) if module_name(other)}
    me = dotted(wanted_module(path))
    door = me.split(".")[0]
    if door not in DOORS:  # `misnamed_module` says so
        return []
    package = me if me == door and path.parent != folder else me.rpartition(".")[0]
    complaints = []
    for where, cell in cells(path, "code"):
        for module in sorted(ours(imported(ast.walk(syntax(cell.source)), package), notebook_of)):
            other = module.split(".")[0]
            if other not in DOORS:
                complaints.append(f"{where}: imports {module}, which is no module of this house")
            elif DOORS.index(other) > DOORS.index(door):
                complaints.append(f"{where}: imports {module}, allowed doors before {door}")
            elif other == door and me != door and (module == door or notebook_of[module].name >= path.name):
                complaints.append(f"{where}: imports {module}, allowed rooms of {door} before {path.stem}")
            elif other == door == me and path.parent == folder:
                complaints.append(f"{where}: imports {module}, which is this notebook's own module")
    return complaints


def import_graph(
    lib=LIB,  # folder of a package
) -> dict[str, set[str]]:  # for every module the modules of ours that it imports, inside functions too
    files = {dotted(".".join(path.relative_to(lib).with_suffix("").parts)): path for path in sorted(lib.rglob("*.py"))}
    files = {module: path for module, path in files.items() if module not in ("__init__", "_modidx")}
    graph = {}
    for module, path in files.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        names = imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))), package)
        graph[module] = ours(names, files) - {module}
    return graph


def doors_of(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    "The same graph seen from outside: which door imports from which."
    doors = defaultdict(set)
    for module, others in graph.items():
        door = module.split(".")[0]
        doors[door] |= {other.split(".")[0] for other in others} - {door}
    return dict(doors)


def circles(graph: dict[str, set[str]]):
    complaints, done = [], set()

    def visit(module, way):
        if module in way:
            circle = [*way[way.index(module):], module]
            complaints.append(f"a circle of imports: {' -> '.join(circle)}")
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, [*way, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return complaints


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    "The longest way down, from the roof to the ground, of a graph without circles."
    @functools.cache
    def below(module):
        return max(([module, *below(other)] for other in sorted(graph.get(module, ()))), key=len, default=[module])
    return max((below(module) for module in sorted(graph)), key=len, default=[])


def many_floors(graph: dict[str, set[str]]):
    chain = longest_chain(doors_of(graph))
    floors = len(chain) - 1
    return [f"{floors} floors, allowed {MAX_FLOORS}: {' -> '.join(chain)}"] if floors > MAX_FLOORS else []


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

def _list_named(name, tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    return []


def public_names(module: Path) -> list[str]:
    "Everything in `__all__`; a door hands on names that its rooms define."
    return _list_named("__all__", ast.parse(module.read_text(encoding="utf-8")))


def defined_names(module: Path) -> list[str]:
    "Those of the public names that are defined here, not handed on from elsewhere."
    tree = ast.parse(module.read_text(encoding="utf-8"))
    handed_on = _list_named("_all_", tree)
    return [name for name in _list_named("__all__", tree) if name not in handed_on]


def names_defined_twice(lib=LIB):
    "One name, one meaning: handing a name on is not defining it."
    places = defaultdict(list)
    for path in sorted(lib.rglob("*.py")):
        for name in defined_names(path):
            places[name].append(dotted(".".join(path.relative_to(lib).with_suffix("").parts)))
    return [f"{name} is defined in {' and in '.join(modules)}: one name, one meaning"
            for name, modules in sorted(places.items()) if len(modules) > 1]


def names_in(tree) -> set[str]:
    return {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(tree)}


def asserts(tree) -> bool:
    "An `assert`, or a call such as `test_eq`, `assert_close` or `pytest.raises`."
    calls = (ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call))
    return (any(isinstance(node, ast.Assert) for node in ast.walk(tree))
            or any(name.startswith(("test_", "assert_")) or "raises" in name for name in calls))


def unasserted_symbols(path, lib=LIB):
    if not module_name(path):  # `misnamed_module` says so
        return []
    trees = [syntax(cell.source) for _, cell in cells(path, "shown")]
    used = set().union(*(names_in(tree) for tree in trees if asserts(tree)))
    names = defined_names(module_file(module_name(path), lib))
    return [f"{notebook_id(path)}: {name} is in no cell that asserts, allowed none" for name in names if name not in used]


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def public_symbols(tree: ast.Module) -> list[tuple[str, ast.AST]]:
    "Pairs of a name, `fit` or `Solver.parse`, and its node: public functions, public classes and what users call of these."
    top = [node for node in tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name[0] != "_"]
    found = []
    for node in top:
        found.append((node.name, node))
        inside = node.body if isinstance(node, ast.ClassDef) else []
        found += [(f"{node.name}.{inner.name}", inner) for inner in inside
                  if isinstance(inner, (*FUNCTIONS, ast.ClassDef)) and (inner.name[0] != "_" or inner.name == "__init__")
                  and not any(re.fullmatch(r"\w+\.(setter|deleter)", ast.unparse(deco)) for deco in inner.decorator_list)]
    return found


def is_documented(node, source: str) -> bool:
    "A docstring, or comments beside the parameters."
    signature = source.splitlines()[node.lineno - 1:node.body[0].lineno - 1]
    return bool(ast.get_docstring(node)) or any(re.search(r"#\s*\w", line) for line in signature)


def undocumented_symbols(path):
    complaints = []
    for where, cell in cells(path, "exported"):
        if "exporti" not in directives(cell):
            complaints += [f"{where}: {name} has neither docstring nor commented parameters"
                           for name, node in public_symbols(syntax(cell.source))
                           if not name.endswith("__init__") and not is_documented(node, cell.source)]
    return complaints


# Parameters

def parameters(node) -> dict[str, ast.AST]:
    "What a function, or the fields of a dataclass, ask of a caller; not `self` and its like."
    if isinstance(node, ast.ClassDef):
        bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
        if not is_dataclass(node) and "NamedTuple" not in bases:
            return {}
        return {field.target.id: field for field in node.body if isinstance(field, ast.AnnAssign) and is_field(field)}
    args = node.args
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return {arg.arg: arg for arg in filter(None, every) if arg.arg not in ("self", "cls")}


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(deco) for deco in node.decorator_list)


def is_field(field: ast.AnnAssign) -> bool:
    of_the_class = "ClassVar" in ast.unparse(field.annotation) or "KW_ONLY" in ast.unparse(field.annotation)
    set_later = field.value is not None and "init=False" in ast.unparse(field.value).replace(" ", "")
    return field.target.id[0] != "_" and not of_the_class and not set_later


def comments(source: str) -> tuple[dict[int, str], set[int]]:
    "The comment of each line that has one, and the lines that hold nothing else."
    found, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = token.string.lstrip("#").strip()
            if not token.line[:token.start[1]].strip():
                alone.add(token.start[0])
    return found, alone


def descriptions(
    node,         # a function or a dataclass
    source: str,  # that it was parsed from
) -> dict[str, str]:  # for every parameter the comment beside it, or on the lines right above it; '' where there is none
    found, alone = comments(source)
    texts = {}
    for name, place in parameters(node).items():
        text, line = found.get(place.lineno, ""), place.lineno - 1
        if place.lineno not in found:
            above = []
            while line in alone:
                above.insert(0, found[line])
                line -= 1
            text = "\n".join(above)
        texts[name] = text if re.search(r"\w", text) else ""
    return texts


def undescribed_parameters(path):
    "A parameter has a line to itself, and a comment to itself."
    complaints = []
    for where, cell in cells(path, "exported"):
        tree = syntax(cell.source)
        for name, node in public_symbols(tree) if "exporti" not in directives(cell) else []:
            places, texts = parameters(node), descriptions(node, cell.source)
            lines = defaultdict(list)
            for parameter, place in places.items():
                lines[place.lineno].append(parameter)
            returns = getattr(node, "returns", None)
            complaints += [f"{where}: {name}: {' and '.join(together)} share a line, allowed one parameter a line"
                           for together in lines.values() if len(together) > 1]
            complaints += [f"{where}: {name}: {lines[returns.lineno][-1]} shares its line with what is returned"
                           for _ in [1] if returns and returns.lineno in lines]
            complaints += [f"{where}: {name}: {parameter} has no comment" for parameter, text in texts.items()
                           if not text and len(lines[places[parameter].lineno]) == 1]
    return complaints


def misread_parameters(module):
    """`docments`, which the site and notebooks show, has to find what the source says: each parameter's own comment. It
    goes wrong where a comment stands beside a bracket, or at the end of a default of many lines."""
    from fastcore.docments import docments
    complaints = []
    source = inspect.getsource(module)
    for name, node in public_symbols(ast.parse(source)):
        own = descriptions(node, source)
        obj = functools.reduce(inspect.getattr_static, name.split("."), module)
        obj = inspect.unwrap(getattr(obj, "__func__", obj))
        if isinstance(obj, property) or isinstance(node, ast.ClassDef) and not is_dataclass(node):
            continue
        read = docments(obj, args_kwargs=True)
        for parameter, text in own.items():
            shown = " ".join((read.get(parameter) or "").split())
            if shown != " ".join(text.split()) and text:
                complaints.append(f"{module.__name__}: {name}: docments reads {shown!r} beside {parameter}, "
                                  f"where the source says {text!r}")
            elif not shown:
                complaints.append(f"{module.__name__}: {name}: docments finds nothing beside {parameter}")
    return complaints


# Lines

def crowded_lines(path):
    "A statement has a line to itself: no `;`, nothing behind the colon of an `if`, a `for`, a `with`, a `def` or a `class`."
    complaints = []
    for where, cell in cells(path, "exported"):
        lines = cell.source.splitlines()
        for node in ast.walk(syntax(cell.source)):
            if isinstance(node, ast.stmt):
                before = lines[node.lineno - 1].encode()[:node.col_offset].decode()
                if before.strip():
                    complaints.append(f"{where}: '{lines[node.lineno - 1].strip()}' is more than one statement, allowed one a line")
    return list(dict.fromkeys(complaints))


def wide_lines(path):
    return [f"{where}: a line of {len(line)} columns, allowed {MAX_COLUMNS}: '{line.strip()[:60]}…'"
            for where, cell in cells(path, "exported") for line in cell.source.splitlines() if len(line) > MAX_COLUMNS]


def wide_module_lines(module: Path):
    "Of what nbdev writes itself, the claim and `__all__`, only nbdev can say where to break it."
    text = module.read_text(encoding="utf-8")
    cells_of_it = re.search(r"^# %% (?!auto)", text, re.MULTILINE)
    first = text[:cells_of_it.start()].count("\n") + 1 if cells_of_it else len(text)
    return [f"{module.name}: line {number} has {len(line)} columns, allowed {MAX_COLUMNS}"
            for number, line in enumerate(text.splitlines(), 1) if number >= first and len(line) > MAX_COLUMNS]


def density(
    files: list[Path],
) -> tuple[int, int]:  # nodes of the syntax trees, and lines of code: neither empty nor all comment
    "Python marks each name as loaded or stored by a node more; these are not counted."
    nodes = lines = 0
    for path in files:
        text = path.read_text(encoding="utf-8")
        nodes += sum(not isinstance(node, ast.expr_context) for node in ast.walk(ast.parse(text)))
        lines += sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())
    return nodes, lines


def density_report(lib=LIB) -> str:
    "Syntax nodes per line: a row per module, the densest first, then the whole. fastcore has 6.9; nothing enforces it."
    files = [path for path in sorted(lib.rglob("*.py")) if path.name != "_modidx.py"]
    rows = [(*density([path]), dotted(".".join(path.relative_to(lib).with_suffix("").parts))) for path in files]
    rows = sorted(((nodes / max(lines, 1), lines, name) for nodes, lines, name in rows if lines), reverse=True)
    nodes, lines = density(files)
    table = [f"{ratio:5.2f} {count:6d}  {name}" for ratio, count, name in rows]
    return "\n".join(["nodes  lines  module", *table, f"{nodes / max(lines, 1):5.2f} {lines:6d}  all"])


# Prose

NAME = re.compile(r"`+([^`\n]+)`+")
PATH_OF_NOTEBOOK = re.compile(r"(?:nbs/)?((?:\w+/)*\w+)\.ipynb|((?:\w+/)*\d\d[a-z]?_[a-z]\w*)")
ENDINGS = {"csv", "html", "ini", "json", "md", "npz", "pdf", "png", "pt", "py", "svg", "toml", "txt", "yaml"}  # of files
LINK_TO_NOTEBOOK = re.compile(r"\]\(([\w./-]+\.ipynb)(?:#[\w-]*)?\)")


def names_without_thing(path: Path, folder=NBS, lib=LIB):
    """Dotted names of the package and paths of notebooks, in backticks or links, that lead nowhere. `path` is a notebook or
    a text; the names that it uses otherwise are its own business."""
    if path.suffix == ".ipynb":
        texts = [(where, cell.source) for where, cell in cells(path)]
    else:
        texts = [(f"{path.name}: line {number}", line)
                 for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)]
    complaints = []
    for where, text in texts:
        for name in NAME.findall(text):
            if found := PATH_OF_NOTEBOOK.fullmatch(name):
                stem = found[1] or found[2]
                near = [folder / f"{stem}.ipynb", path.parent / f"{stem}.ipynb"]
                if not any(place.exists() for place in near):
                    complaints.append(f"{where}: `{name}` names a notebook that does not exist")
            elif is_name_of_ours(name, lib) and not leads_somewhere(name, lib):
                complaints.append(f"{where}: `{name}` names nothing in {PACKAGE}")
        complaints += [f"{where}: links to {link}, which does not exist" for link in LINK_TO_NOTEBOOK.findall(text)
                       if path.suffix == ".ipynb" and not (path.parent / link).exists()]
    return complaints


def is_name_of_ours(name: str, lib=LIB) -> bool:
    "Dotted, and it begins with the package or with a door that is a folder: `files` and `plots` are words of their own."
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(\(\))?", name):
        return False
    first, last = name.split(".")[0], name.split(".")[-1]
    if last in ENDINGS:
        return False
    return first == PACKAGE or (lib / first / "__init__.py").exists()


def leads_somewhere(name: str, lib=LIB) -> bool:
    "A module, or a name at the top of one; what is behind a class is left to Python."
    parts = name.removesuffix("()").removeprefix(f"{PACKAGE}.").split(".")
    for end in range(len(parts), 0, -1):
        place = lib.joinpath(*parts[:end])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.exists():
            return end == len(parts) or parts[end] in _top_names(file, file.stat().st_mtime_ns) or parts[end][0] == "_"
    return False


@functools.cache
def _top_names(file, time):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {getattr(node, "name", "") for node in tree.body} | set(public_names(file))
    return names | {found.id for node in tree.body for found in ast.walk(node)
                    if isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store)}


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


def summary() -> str:
    "What is checked, in numbers."
    modules, every = module_notebooks(NBS), notebooks(NBS)
    chain = longest_chain(doors_of(import_graph()))
    return (f"{len(every)} notebooks, {len(modules)} of them modules; {len(chain) - 1} floors, allowed {MAX_FLOORS}: "
            f"{' -> '.join(chain)}")


if __name__ == "__main__":
    print(summary())
    if "-v" in sys.argv[1:]:
        print(density_report())
