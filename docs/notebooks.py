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
EXPORTED = {"export", "exports", "exporti"}
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
        "Of the page: the path without the number, as nbdev's index of symbols has it."
        relative = self.path.relative_to(NBS)
        return relative.with_name(re.sub(r"^\d+[a-z]?_", "", relative.stem)).as_posix()

    @property
    def folder(self) -> str:
        return self.path.relative_to(NBS).parent.as_posix().removeprefix(".")

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
        "Name of the module that it exports, if it does."
        found = [value for cell in self.code for key, value in directives(cell).items() if key == "default_exp"]
        return f"{PACKAGE}.{found[0]}" if found else None

    @property
    def code(self):
        return [cell for cell in self.cells if cell.cell_type == "code"]

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


def notebooks() -> list[Notebook]:
    "In the order in which they are read. Paper pages: figures before tables before the rest."
    def ignored(path):
        return any(part[0] in "_." for part in path.relative_to(NBS).parts)

    def place(notebook):
        rank = [kind for kind in ("figure", "table", "algorithm", "supplement") if notebook.path.stem.startswith(kind)]
        kinds = ["figure", "table", "algorithm", "supplement", None]
        return notebook.folder, kinds.index(rank[0] if rank else None) if notebook.folder == "paper" else 0, notebook.path.stem
    return sorted((Notebook(path) for path in NBS.rglob("*.ipynb") if not ignored(path)), key=place)


# nbdev's processors, and ours

class Documented(Processor):
    "Puts the signature and parameters of what a cell exports before the cell, where nbdev has `show_doc`."
    def begin(self):
        module = default_exp(self.nb)
        if not module:
            return
        self.nb.cells[1:1] = [mk_cell(f":::{{py:module}} {PACKAGE}.{module}\n:::", "markdown")]
        made, seen = [], set()
        for cell in self.nb.cells:
            if cell.cell_type == "code" and cell.directives_.keys() & {"export", "exports"} and "hide" not in cell.directives_:
                names = [name for name in public_names(cell.source) if name not in seen]  # a class may be continued later
                made += [documentation(entry(f"{PACKAGE}.{module}", name)) for name in names]
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
    folded = bool(cell.directives_.keys() & (EXPORTED | {"hide_input"})) or "code-fold" in options
    tags = {"remove-input": options.get("echo") == "false" or "facts" in cell.directives_,
            "remove-output": options.get("output") == "false", "hide-input": folded}
    cell.metadata["tags"] = [tag for tag, wanted in tags.items() if wanted]
    prompt = f"Source: {defined(cell.source)}" if cell.directives_.keys() & EXPORTED else "Code of the output below"
    cell.metadata["mystnb"] = {"code_prompt_show": prompt, "code_prompt_hide": prompt}
    cell["outputs"] = [output for output in cell.get("outputs", []) if not is_widget(output)]
    pictures = [picture for output in cell.outputs if (picture := png(output))]
    if pictures:
        cell.metadata["mystnb"]["image"] = {"alt": options.get("fig-alt", ""), "width": f"{width(pictures[0])}px"}


def defined(source: str) -> str:
    "What an exported cell holds, in a few words."
    names = [name for node in ast.parse(source).body for name in defines(node)]
    return ", ".join(names) if names else "imports"


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
