"""What a module exports, as reference: signatures, and the comments beside parameters as tables."""
import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import is_dataclass
from enum import Enum

from fastcore.docments import docments

from neuralode_resnet.docstrings import PARAMETERS

SKIPPED_DOC = re.compile(r"^\w+\(.*\)$", re.DOTALL)  # dataclasses invent their signature as a docstring


def entry(
    module: str,  # dotted name
    name: str,    # of something that the module defines
) -> str:  # a directive of Sphinx's Python domain in MyST
    "Signature, docstring and parameters of a function, class or constant; public members of a class inside it."
    obj = getattr(importlib.import_module(module), name)
    if inspect.isclass(obj):
        members = [member(obj, attribute) for attribute in vars(obj) if attribute[0] != "_"]
        return directive("class", name + signature(obj), described(obj), *filter(None, members))
    if inspect.isroutine(obj):
        return directive("function", name + signature(obj), described(obj))
    return directive("data", name)


def member(cls, name: str) -> str | None:
    "A documented method or property; `None` for what has neither docstring nor commented parameters."
    raw = inspect.getattr_static(cls, name)
    obj = raw.fget if isinstance(raw, property) else getattr(cls, name)
    if not isinstance(raw, property | classmethod | staticmethod) and not inspect.isfunction(raw):
        return None
    text = described(obj)
    if not text:
        return None
    if isinstance(raw, property):
        return directive("property", name, text)
    options = ":classmethod:\n" if isinstance(raw, classmethod) else ":staticmethod:\n" if isinstance(raw, staticmethod) else ""
    return directive("method", name + signature(obj), text, options=options)


def directive(kind: str, head: str, *parts: str, options="") -> str:
    inside = "\n\n".join(filter(None, parts))
    fence = ":" * (3 + max((len(found) for found in re.findall(r"^(:{3,})", inside, re.MULTILINE)), default=0))
    return f"{fence}{{py:{kind}}} {head}\n{options}\n{inside}\n{fence}"


def signature(obj) -> str:
    "Names and defaults; the types are in the table."
    try:
        found = inspect.signature(obj)
    except (TypeError, ValueError):
        return "()"
    parameters = [p.replace(annotation=p.empty, default=readable(p.default)) for p in found.parameters.values()
                  if p.name not in ("self", "cls")]
    return str(found.replace(parameters=parameters, return_annotation=found.empty))


class Readable:
    "Shown as Python would write it, not as `<function f at 0x…>`."
    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


def readable(default):
    if default is inspect.Parameter.empty:
        return default
    if isinstance(default, Enum):
        return Readable(str(default))
    text = getattr(default, "__name__", None) or repr(default)
    return Readable("…" if text.startswith("<") else text)


def own_doc(obj) -> str:
    "The docstring without the descriptions of parameters, which are a table here."
    return (inspect.getdoc(obj) or "").partition(PARAMETERS)[0].rstrip()


def described(obj) -> str:
    "Docstring, then the docments."
    doc = own_doc(obj) if obj.__doc__ else ""
    doc = "" if SKIPPED_DOC.match(doc or "") else doc
    return "\n\n".join(filter(None, [doc, parameters(obj)]))


def parameters(obj) -> str:
    "A table of the parameters that have a comment or a type; what is returned comes last."
    try:
        found = docments(inspect.unwrap(obj), full=True, args_kwargs=True)
    except (TypeError, ValueError, OSError):
        return ""
    for base in inspect.getmro(obj)[1:] if inspect.isclass(obj) else ():  # fields that a dataclass inherits
        inherited = docments(base, full=True) if is_dataclass(base) else {}
        for name, info in found.items():
            info["docment"] = info["docment"] or (inherited.get(name) or {}).get("docment")
    rows = [(f"`{name}`" if name != "return" else "returns", type_name(info), default_of(info),
             (info["docment"] or "").replace("\n", " "))
            for name, info in found.items() if name not in ("self", "cls")]
    if not any(comment for *_, comment in rows):
        return ""
    rows = [row for row in rows if row[0] != "returns" or any(row[1:])]
    columns = ["Parameter", "Type", "Default", "Description"]
    kept = [i for i, column in enumerate(columns) if column in ("Parameter", "Description") or any(row[i] for row in rows)]
    lines = [[columns[i] for i in kept], ["---"] * len(kept)]
    lines += [[row[i].replace("|", "\\|") for i in kept] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def default_of(info) -> str:
    "As Python would write it; nothing where an argument is required."
    default = info.get("default", inspect.Parameter.empty)
    if default is inspect.Parameter.empty:
        return ""
    return f"`{readable(default)!r}`"


def type_name(info) -> str:
    anno = info["anno"]
    anno = getattr(anno, "__origin__", anno) if hasattr(anno, "__metadata__") else anno  # an option of a command
    if anno in (inspect.Parameter.empty, None, type(None)):
        return ""
    text = anno if isinstance(anno, str) else anno.__name__ if inspect.isclass(anno) else str(anno)
    return f"`{text.replace('typing.', '').replace(' ', '')}`"


def command_line(
    module: str,  # that holds the typer app
    name: str,    # of the installed command
) -> str:  # Markdown
    "typer's own documentation of the commands; its lists become tables, its examples code."
    command = [sys.executable, "-m", "typer", module, "utils", "docs", "--name", name]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    purposes = dict(re.findall(rf"^## `{name} ([\w-]+)`\n\n(.*)$", text, re.MULTILINE))
    text = re.sub(r"^\* `(\w[\w-]*)`: .*$", lambda found: f"| `{found[1]}` | {purposes[found[1]]} |", text, flags=re.MULTILINE)
    text = re.sub(r"^\* `([^`]*)`(?:: (.*))?$", as_row, text, flags=re.MULTILINE)
    for heading, column in {"Options": "option", "Arguments": "argument", "Commands": "command"}.items():
        text = text.replace(f"**{heading}**:\n\n", f"| {column} | meaning | default |\n| --- | --- | --- |\n")
    text = text.replace("| command | meaning | default |\n| --- | --- | --- |", "| command | meaning |\n| --- | --- |")
    text = re.sub(r"^Example: (.*)$", r"```sh\n\1\n```", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Usage\*\*:\n\n```console\n\$ (.*)\n```", r"`\1`", text)
    return re.sub(r"\A# .*", "# Command line", text)


def as_row(match) -> str:
    option, text = match[1], match[2] or ""
    meaning, _, default = text.partition("[")
    return f"| `{option}` | {meaning.strip()} | {default.removesuffix(']').removeprefix('default: ')} |"
