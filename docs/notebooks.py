"""Notebooks as pages: nbdev's processing of directives, then what MyST-NB has to know about each cell.

Nothing is executed. What a page shows is what its notebook stores.
"""
import ast
import base64
import io
import re
from configparser import ConfigParser
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
from execnb.nbio import mk_cell
from nbdev.processors import (
    FilterDefaults, clean_magics, filter_stream_, hide_, hide_line, populate_language, rm_header_dash, strip_ansi)
from nbdev.process import Processor
from PIL import Image

from reference import entry

ROOT = Path(__file__).resolve().parent.parent
_parser = ConfigParser(delimiters=["="])
_parser.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = _parser["DEFAULT"]
PACKAGE = SETTINGS["lib_name"]
NBS = ROOT / SETTINGS["nbs_path"]
DOORS = SETTINGS["doors"].split()  # the order of the chapters
EXPORTED = {"export", "exports", "exporti"}
RESULTS_FIRST = {"paper", "beyond", "zoo"}  # folders of pages that fold all their code: the result is what they are read for
DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*)$", re.MULTILINE)
DPI = 144  # of figures that do not say it themselves: `plots.use_style`


# Notebooks

@dataclass(frozen=True)
class Notebook:
    "A notebook that becomes a page."
    path: Path

    @cached_property
    def cells(self):
        return nbformat.read(self.path, as_version=4).cells

    @property
    def name(self) -> str:
        "Of the page: the path without numbers, and `solvers/index` for the opening of the chapter `solvers`."
        relative = self.path.relative_to(NBS)
        return relative.with_name("index" if self.is_door else re.sub(r"^\d+_", "", relative.stem)).as_posix()

    @property
    def folder(self) -> str:
        return self.path.relative_to(NBS).parent.as_posix().removeprefix(".")

    @property
    def door(self) -> str:
        "The chapter that it belongs to: its folder, or what it is itself."
        return self.folder or self.name

    @property
    def is_door(self) -> bool:
        "Does it open the chapter of its folder?"
        return bool(self.folder) and self.path.stem == f"00_{self.path.parent.name}"

    @property
    def source(self) -> str:
        "Where the notebook lies in the project."
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def title(self) -> str:
        return self.cells[0].source.splitlines()[0].removeprefix("# ")

    @cached_property
    def claim(self) -> str:
        "The quoted lines below the title."
        return " ".join(line[1:].strip() for line in self.cells[0].source.splitlines() if line.startswith(">"))

    @cached_property
    def module(self) -> str | None:
        "Name under which the module that it exports is imported, if it exports one."
        found = [value for cell in self.code for key, value in directives(cell).items() if key == "default_exp"]
        return imported_as(found[0]) if found else None

    @cached_property
    def defined(self) -> list[str]:
        "Public names that its exported cells define."
        return [name for cell in self.exported for name in public_names(cell.source)]

    @cached_property
    def handed_on(self) -> dict[str, str]:
        "For every name in `_all_` of a door: the module that it is imported from."
        trees = [ast.parse(cell.source) for cell in self.exported]
        sources = {alias.asname or alias.name: node.module for tree in trees for node in tree.body
                   if isinstance(node, ast.ImportFrom) for alias in node.names}
        lists = [ast.literal_eval(node.value) for tree in trees for node in tree.body
                 if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_all_"]
        return {name: sources[name] for names in lists for name in names if name in sources}

    @property
    def code(self):
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @property
    def exported(self):
        return [cell for cell in self.code if directives(cell).keys() & {"export", "exports"}]

    @property
    def figures(self):
        "Pairs of a code cell and a picture in its stored outputs."
        return [(cell, png(output)) for cell in self.code for output in cell.outputs if png(output)]

    @property
    def facts(self) -> list[list[str]]:
        "Rows of the Markdown tables that cells with `#| facts` print: claim, reproduced, ours, the paper's."
        tables = ["".join(output.data["text/markdown"]) for cell in self.code if "facts" in directives(cell)
                  for output in cell.outputs if "text/markdown" in output.get("data", {})]
        lines = [line for table in tables for line in table.strip().splitlines()[2:]]
        return [[part.strip() for part in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]


def directives(cell) -> dict[str, str]:
    "`#| name value` and `#| name: value` at any place of a code cell."
    return {key: value.strip().strip('"') for key, value in DIRECTIVE.findall(cell.source)}


def png(output) -> bytes | None:
    data = output.get("data", {}).get("image/png")
    return base64.b64decode("".join(data)) if data else None


def imported_as(module: str) -> str:
    "`solvers.__init__` is imported as neuralode_resnet.solvers."
    return f"{PACKAGE}.{module}".removesuffix(".__init__")


KINDS = ["figure", "table", "algorithm", "supplement"]  # of pages about the paper, in this order; the rest follows


def notebooks() -> list[Notebook]:
    "In the order in which they are read: chapter by chapter, by number within each."
    def ignored(path):
        return any(part[0] in "_." for part in path.relative_to(NBS).parts)

    def place(notebook):
        chapter = DOORS.index(notebook.door) if notebook.door in DOORS else len(DOORS)
        kind = next((rank for rank, kind in enumerate(KINDS) if notebook.path.stem.startswith(kind)), len(KINDS))
        return chapter, notebook.folder, kind if notebook.folder == "paper" else 0, notebook.path.stem
    return sorted((Notebook(path) for path in NBS.rglob("*.ipynb") if not ignored(path)), key=place)


def home(
    name: str,    # handed on by a door
    module: str,  # that the door imports it from
) -> str:  # the module that defines it
    "A door may hand on what another door hands on."
    door = next((page for page in notebooks() if page.module == module and page.is_door), None)
    return home(name, door.handed_on[name]) if door and name in door.handed_on else module


# nbdev's processors, and ours

class Documented(Processor):
    "Puts the signature and parameters of what a cell exports before the cell, where nbdev has `show_doc`."
    def begin(self):
        module = default_exp(self.nb)
        if not module:
            return
        name = imported_as(module)
        self.nb.cells[1:1] = [mk_cell(f":::{{py:module}} {name}\n:::", "markdown")]
        made, seen = [], set()
        for cell in self.nb.cells:
            if cell.cell_type == "code" and cell.directives_.keys() & {"export", "exports"} and "hide" not in cell.directives_:
                names = [new for new in public_names(cell.source) if new not in seen]  # a class may be continued later
                made += [documentation(entry(name, new)) for new in names]
                seen.update(names)
            made.append(cell)
        self.nb.cells = made


def documentation(text):
    cell = mk_cell(text, "markdown")
    cell.directives_ = {}
    return cell


def default_exp(nb):
    return next((cell.directives_["default_exp"][0] for cell in nb.cells if "default_exp" in cell.directives_), None)


def public_names(source: str) -> list[str]:
    "Functions, classes and constants that a cell defines."
    return [name for node in ast.parse(source).body for name in defines(node) if name[0] != "_"]


def defines(node) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [found.id for target in targets for found in ast.walk(target) if isinstance(found, ast.Name)]


def for_myst(cell):
    "Turns directives into the tags that MyST-NB reads. What nbdev exports is folded rather than left out: it is the text."
    if cell.cell_type == "raw" or cell.cell_type == "code" and cell.directives_.keys() & {"hide", "default_exp"}:
        del cell["source"]
        return
    if cell.cell_type != "code":
        return
    options = directives(cell)
    if options.get("include") == "false":
        del cell["source"]
        return
    cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
    asked = bool(cell.directives_.keys() & (EXPORTED | {"hide_input"})) or options.get("code-fold", "false") != "false"
    folded = asked or cell.get("result_first_", False) and options.get("code-fold") != "false"
    tags = {"remove-input": options.get("echo") == "false" or "facts" in cell.directives_,
            "remove-output": options.get("output") == "false", "hide-input": folded}
    cell.metadata["tags"] = [tag for tag, wanted in tags.items() if wanted]
    has_output = bool(cell.get("outputs")) and not tags["remove-output"]
    kind = "Source" if cell.directives_.keys() & EXPORTED else "Code"
    prompt = "Code of the output below" if has_output and kind == "Code" else f"{kind}: {defined(cell.source)}"
    cell.metadata["mystnb"] = {"code_prompt_show": prompt, "code_prompt_hide": prompt}
    cell["outputs"] = [output for output in cell.get("outputs", []) if not is_widget(output)]
    pictures = [picture for output in cell.outputs if (picture := png(output))]
    if pictures:
        cell.metadata["mystnb"]["image"] = {"alt": options.get("fig-alt", ""), "width": f"{width(pictures[0])}px"}


def defined(source: str) -> str:
    "What an exported cell holds, in a few words."
    body = ast.parse(source).body
    names = list(dict.fromkeys(name for node in body for name in defines(node)))
    if names:
        return ", ".join(names)
    imports = body and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)
    return "imports" if imports or not body else "checks" if any(isinstance(node, ast.Assert) for node in body) else "what follows"


def is_widget(output):
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def width(picture: bytes) -> int:
    "At which type in a figure is as large as it says: 96 pixels of a page are an inch."
    image = Image.open(io.BytesIO(picture))
    return round(image.width * 96 / image.info.get("dpi", (DPI,))[0])


class ForSphinx(FilterDefaults):
    "nbdev's processors without those that execute cells or write for Quarto."
    def base_procs(self):
        return [populate_language, Documented, strip_ansi, hide_line, filter_stream_, rm_header_dash, for_myst, clean_magics,
                hide_]
