"""Builds the documentation site from the notebooks' stored outputs: `python docs/build.py`, then open `_docs/index.html`."""
import argparse
import io
import re
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import reference  # noqa: E402
from explorer import explorer_data  # noqa: E402
from execnb.nbio import mk_cell, read_nb, write_nb  # noqa: E402
from notebooks import PACKAGE, RESULTS_FIRST, ROOT, SETTINGS, ForSphinx, Notebook, directives, notebooks, width  # noqa: E402
from notebooks import home as home_of  # noqa: E402
from PIL import Image  # noqa: E402
from sphinx.cmd.build import main as sphinx  # noqa: E402

PAGES = ROOT / "_proc"  # what Sphinx reads
COMMANDS = "cli"  # the door whose pages belong to the command line
READERS = ("tutorials", "zoo", "paper")  # folders of pages that are no modules
GITHUB = f"{SETTINGS['git_url']}/blob/{SETTINGS['branch']}"
COLAB = GITHUB.replace("https://github.com", "https://colab.research.google.com/github")
NO_FACTS = "no facts yet"
TUTORIALS = ["audit_your_model", "gate_in_ci", "swap_the_solver", "adapt_the_step", "first_solve", "own_tableau", "run_a_sweep",
             "audit_near_the_line", "audit_checked"]  # in the order of their page
BEYOND = ["paper/beyond", "paper/why_random_depth"]  # pages of the section "Stay an ODE"
PAPER_TITLES = {  # in the sidebar, where the part before the colon does not tell pages apart
    "paper/algorithm_1": "Algorithm 1", "paper/algorithm_2": "Algorithm 2", "paper/figure_4_images": "Figure 4, images",
    "paper/figure_5": "Figure 5", "paper/supplement_adaptive": "Adaptive solvers", "paper/supplement_adjoint": "Adjoint training",
    "paper/supplement_cost": "Cost", "paper/supplement_crossing": "A: crossing", "paper/supplement_fixed_step": "Fixed steps",
    "paper/supplement_tolerance": "B: tolerances", "paper/beyond": "The comparison", "paper/why_random_depth": "Why random depth works",
}
START_HERE = {  # name -> where it is imported from, what for
    "audit": ("audit", "Is a trained model an ODE? A verdict with its evidence, for any model that solves with torchdiffeq, or here."),
    "Solver": ("solvers", "A method and its accuracy, as in `euler@1/64` or `dopri5@1e-3`."),
    "NeuralODE": ("models", "The paper's classifier: a field that is solved, and a head. Several seeds train as one ensemble."),
    "fit": ("training", "Trains a model; resumable, with callbacks that watch or change the solver."),
    "swap_grid": ("solver_swap", "Accuracy and agreement of a trained model under other solvers, as a table."),
    "RandomDepth": ("valid_training", "Draws the number of steps of every iteration, so that the model stays an ODE."),
    "ValidityController": ("valid_training", "Sets the solver during training so that few predictions depend on it."),
    "StepAdapter": ("adaptation", "The paper's step adaptation, in any training loop."),
    "crossings": ("crossing", "Where numerical trajectories cross, which solutions never do."),
}
SECTIONS = {"get_started": "Get started", "tutorials/index": "Tutorials", "zoo/index": "Zoo", "stay_an_ode": "Stay an ODE", "explore": "Drag the solver",
            "why_it_happens": "Why it happens", "paper/index": "The paper", "api": "API", "command_line": "Command line", "related_work": "Related work", "benchmarks": "Benchmarks",
            "contributing": "Contributing", "changelog": "Changelog"}


# Pages made of notebooks

def page_of(notebook: Notebook, folder: Path) -> None:
    "Write the notebook as Sphinx is to read it."
    nb = read_nb(notebook.path)
    for cell in nb.cells:
        cell.result_first_ = notebook.folder in RESULTS_FIRST
    ForSphinx()(nb)
    if notebook.name == "index":  # title and introduction are on the home page
        nb.cells[0].source, nb.cells[1].source = "# Get started", after_introduction(nb.cells[1].source)
    nb.cells[1:1] = [mk_cell(origin(notebook), "markdown")]
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(((?:\.\./)*(?:\w+/)*\w+)\.ipynb", lambda link: "](" + page_link(notebook, link[1]), cell.source)
            cell.source = cell.source.replace("](CONTRIBUTING.md)", "](/contributing.md)")
            cell.source = cell.source.replace("](CITATION.cff)", f"]({GITHUB}/CITATION.cff)")
    if notebook.is_door:
        nb.cells += [mk_cell(text, "markdown") for text in (handed_on(notebook), rooms(notebook)) if text]
    nb.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb.metadata["language_info"] = {"name": "python"}
    target = folder / f"{notebook.name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_nb(nb, target)


def after_introduction(source: str) -> str:
    "From the first heading on."
    return "## " + source.split("\n## ", 1)[1]


def page_link(notebook, link):
    "A link from notebook to notebook, as one from page to page."
    target = Notebook((notebook.path.parent / f"{link}.ipynb").resolve())
    return "/" + ("get_started" if target.name == "index" else target.name) + ".ipynb"


def handed_on(door: Notebook) -> str:
    "The names of a door, each linked to the room that documents it."
    rows = [f"| {{py:obj}}`~{home_of(name, module)}.{name}` | `{home_of(name, module)}` | {first_sentence(door.module, name)} |"
            for name, module in door.handed_on.items()]
    return "\n".join([f"## From `{door.module}` import", "", "| name | defined in | |", "| --- | --- | --- |", *rows]) if rows else ""


def first_sentence(module: str, name: str) -> str:
    "Of the docstring of a function or class; constants have none."
    import importlib
    import inspect
    found = getattr(importlib.import_module(module), name)
    text = reference.own_doc(found) if inspect.isclass(found) or inspect.isroutine(found) else ""
    text = "" if reference.SKIPPED_DOC.match(text or "") else " ".join((text or "").split())
    return re.split(r"(?<=[.?!]) ", text, maxsplit=1)[0].replace("|", "\\|")


def rooms(door: Notebook) -> str:
    "What the sidebar unfolds below a door."
    behind = [page for page in notebooks() if page.folder == door.folder and not page.is_door]
    return toctree({page.name: short(page) for page in behind}, hidden=True) if behind else ""


def short(page: Notebook) -> str:
    "What a sidebar calls a page: the name of a room as it is imported, the title of a page for readers."
    is_room = page.module and page.folder not in READERS
    return page.module.rpartition(".")[2] if is_room else page.title.split(":")[0]

def origin(notebook) -> str:
    "One line below the title: where this page comes from, and for a tutorial how to run it without installing anything."
    parts = [f"[`{notebook.source}`]({GITHUB}/{notebook.source})"]
    if notebook.module:
        parts.insert(0, f"module `{notebook.module}`")
    line = f"{{.origin}}\n{' · '.join(parts)}"
    if notebook.folder != "tutorials":
        return line
    return (f"{line} · [Open in Colab]({COLAB}/{notebook.source})\n\n:::{{dropdown}} In Colab, run this first\n"
            f"```\n%pip install -q git+{SETTINGS['git_url']}\n```\n:::")


def figures(pages: list[Notebook], folder: Path) -> dict[str, str]:
    "Labelled figures of all notebooks as files, and the Markdown that shows each."
    found = {}
    for notebook in pages:
        for cell, picture in notebook.figures:
            options = directives(cell)
            if label := options.get("label"):
                (folder / "figures").mkdir(exist_ok=True)
                (folder / "figures" / f"{label}.png").write_bytes(picture)
                found[label] = (f":::{{figure}} /figures/{label}.png\n:alt: {options.get('fig-alt', '')}\n:width: {width(picture)}px\n"
                                f":target: {notebook.name}.html\n\nFrom [{notebook.title}](/{notebook.name}.ipynb)\n:::")
    return found


def without_alt(pages: list[Notebook]) -> list[str]:
    "Figures that a screen reader cannot describe."
    return [f"{notebook.source}: the figure of '{cell.source.strip().splitlines()[0]}' needs `#| fig-alt: what it shows`"
            for notebook in pages for cell, _ in notebook.figures if not directives(cell).get("fig-alt")]


# Pages made of lists

def toctree(
    names,          # of pages: a list, or what the sidebar calls each
    caption="",     # above them in the sidebar
    hidden=False,   # in the sidebar only
) -> str:
    options = (f":caption: {caption}\n" if caption else "") + (":hidden:\n" if hidden else ":maxdepth: 1\n")
    entries = [f"{title} </{name}>" for name, title in names.items()] if isinstance(names, dict) else [f"/{name}" for name in names]
    return "```{toctree}\n" + options + "\n" + "\n".join(entries) + "\n```"


def listed(pages) -> str:
    "A linked title and the claim of each page."
    return "\n\n".join(f"[**{page.title}**](/{page.name}.ipynb)\n: {page.claim}" for page in pages)


def api(modules: list[Notebook]) -> str:
    "A table of the doors, then the rooms behind each, folded."
    doors = [page for page in modules if page.is_door or not page.folder]
    text = ["# API", "## Start here", "| name | import it from | what it is for |\n| --- | --- | --- |\n" + "\n".join(map(start_row, START_HERE)),
            "## All doors", "The package is a house. What you import stands at its doors; behind a door are rooms, and a room is a "
            "notebook: code, explanation and tests at once. Doors build on one another from top to bottom, and so do rooms. "
            "Each public name is documented where it is defined; the {ref}`index <genindex>` lists all of them.",
            "| door | claim | names |\n| --- | --- | --- |\n" + "\n".join(map(api_row, doors)), "## The rooms"]
    for door in doors:
        behind = [page for page in modules if page.folder == door.folder and not page.is_door] if door.is_door else []
        if behind:
            text.append(f"::::{{dropdown}} {door.title}\n| room | claim | names |\n| --- | --- | --- |\n"
                        + "\n".join(map(api_row, behind)) + "\n::::")
    return "\n\n".join([*text, toctree([page.name for page in doors], hidden=True)])


def start_row(name: str) -> str:
    door, purpose = START_HERE[name]
    door = f"{PACKAGE}.{door}"
    return f"| {{py:obj}}`~{home_of(name, door)}.{name}` | `{door}` | {purpose} |"


def api_row(page):
    own = [f"{{py:obj}}`~{page.module}.{name}`" for name in page.defined]
    others = [f"{{py:obj}}`~{home_of(name, module)}.{name}`" for name, module in page.handed_on.items()]
    return f"| [{page.title}](/{page.name}.ipynb) | {page.claim} | {' '.join(own + others)} |"


def group_of(page: Notebook) -> str:
    "What the sidebar calls the kind of a page about the paper."
    kind = page.path.stem.partition("_")[0]
    return {"figure": "Figures", "table": "Tables and algorithms", "algorithm": "Tables and algorithms"}.get(kind, "Supplement")


def grouped(pages: list[Notebook]) -> str:
    "The sidebar of the paper: figures, tables and algorithms, supplement, under short titles."
    groups = {}
    for page in pages:
        groups.setdefault(group_of(page), {})[page.name] = PAPER_TITLES.get(page.name, page.title.split(":")[0])
    return "\n\n".join(toctree(titles, caption, hidden=True) for caption, titles in groups.items())


def stay_an_ode(pages: list[Notebook]) -> str:
    text = (HERE / "stay_an_ode.md").read_text(encoding="utf-8").strip()
    titles = {page.name: PAPER_TITLES.get(page.name, page.title.split(":")[0]) for page in pages}
    return "\n\n".join([text, listed(pages), toctree(titles, hidden=True)])


def paper(pages: list[Notebook]) -> str:
    rows = ["| claim | page | reproduced? | ours | the paper |", "| --- | --- | --- | --- | --- |"]
    for page in pages:
        facts = page.facts or [[page.claim, NO_FACTS, "", ""]]
        rows += [f"| {claim} | [{page.title.split(':')[0]}](/{page.name}.ipynb) | {reproduced} | {ours} | {theirs} |"
                 for claim, reproduced, ours, theirs in facts]
    return "\n\n".join([(HERE / "paper.md").read_text(encoding="utf-8").strip(), "\n".join(rows),
                        grouped([page for page in pages if page.name not in BEYOND])])


def tutorials(pages: list[Notebook], folder: Path) -> str:
    "A card per tutorial: its first figure, what it does, and the minutes that it takes; the audit first."
    by_name = {page.name.rpartition("/")[2]: page for page in pages}
    names = [*TUTORIALS, *(name for name in by_name if name not in TUTORIALS)]
    cards = []
    for name in names:
        page = by_name[name]
        parts = [f":::{{grid-item-card}} {page.title}", f":link: /{page.name}", ":link-type: doc"]
        pictures = page.figures
        if pictures:
            (folder / "figures").mkdir(exist_ok=True)
            (folder / "figures" / f"tutorial_{name}.png").write_bytes(thumbnail(pictures[0][1]))
            parts += [f":img-bottom: /figures/tutorial_{name}.png", f":img-alt: First figure of the tutorial {page.title}."]
        parts += ["", page.claim, "", f"*{reading_minutes(page)} minutes*", ":::"]
        cards.append("\n".join(parts))
    grid = "\n\n".join(["::::{grid} 1 1 2 2", ":gutter: 3", *cards, "::::"]).replace("2 2\n\n:gutter", "2 2\n:gutter")
    intro = "Each does one thing from start to end. The minutes are for reading it, code and all."
    return "\n\n".join(["# Tutorials", intro, grid, toctree([by_name[name].name for name in names], hidden=True)])


def reading_minutes(page: Notebook) -> int:
    "Two hundred words of prose or fifteen lines of code take a minute."
    words = sum(len(cell.source.split()) for cell in page.cells if cell.cell_type == "markdown")
    lines = sum(bool(line.strip()) for cell in page.code for line in cell.source.splitlines())
    return max(1, round(words / 200 + lines / 15))


def thumbnail(picture: bytes, width=700) -> bytes:
    "The figure, small enough for a card."
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.LANCZOS)
    made = io.BytesIO()
    image.save(made, "PNG", optimize=True)
    return made.getvalue()


def zoo(pages: list[Notebook]) -> str:
    return "\n\n".join(["# Zoo", "One page per family of Neural ODEs, audited and cured.", listed(pages),
                        toctree([page.name for page in pages], hidden=True)])


def home(front: Notebook, shown: dict[str, str], sections: dict[str, str]) -> str:
    "Title, claim and first paragraph of the front page, one picture, and where to go."
    text = (HERE / "home.md").read_text(encoding="utf-8")
    parts = {"title": front.cells[0].source, "introduction": front.cells[1].source.split("\n## ")[0].strip()}
    return filled(text, {**shown, **parts}) + "\n\n" + toctree(sections, hidden=True)


def filled(text: str, parts: dict[str, str]) -> str:
    "Lines `<<name>>` replaced; a name that is not there stops the build."
    return re.sub(r"^<<([\w-]+)>>$", lambda match: parts[match[1]], text, flags=re.MULTILINE)


def from_project(file: Path) -> str:
    "A Markdown file of the project; what it links to lies on GitHub."
    folder = file.parent.relative_to(ROOT).as_posix()
    base = GITHUB if folder == "." else f"{GITHUB}/{folder}"
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", rf"]({base}/\1)", file.read_text(encoding="utf-8"))


# The site

def write_pages(folder: Path) -> None:
    "Everything that Sphinx reads."
    found = notebooks()
    front = next(page for page in found if page.name == "index")
    modules = [page for page in found if page.module]
    group = {name: [page for page in found if page.folder == name] for name in READERS}
    chapters = [page for page in modules if page.door != COMMANDS and page.folder not in READERS]
    commands = [page for page in modules if page.door == COMMANDS and (page.is_door or not page.folder)]
    for page in found:
        page_of(page, folder)
    (folder / "index.ipynb").rename(folder / "get_started.ipynb")
    shown = figures(found, folder)
    sections = {name: title for name, title in SECTIONS.items() if group.get(name.removesuffix("/index"), True)}
    name = SETTINGS["console_scripts"].split("=")[0]
    texts = {
        "index": home(front, shown, sections),
        "why_it_happens": filled((HERE / "why_it_happens.md").read_text(encoding="utf-8"), shown),
        "explore": (HERE / "explore.md").read_text(encoding="utf-8"),
        "related_work": (HERE / "related_work.md").read_text(encoding="utf-8"),
        "stay_an_ode": stay_an_ode([page for page in found if page.name in BEYOND]),
        "tutorials/index": tutorials(group["tutorials"], folder),
        "paper/index": paper(group["paper"]),
        "api": api(chapters),
        "contributing": from_project(ROOT / "CONTRIBUTING.md"),
        "command_line": reference.command_line(f"{PACKAGE}.{COMMANDS}.main", name) + "\n\n"
            + toctree({page.name: f"The package {page.module}" for page in commands}, hidden=True),
        "benchmarks": from_project(ROOT / "benchmarks" / "README.md"),
        "changelog": from_project(ROOT / "CHANGELOG.md"),
    }
    if group["zoo"] and not any(page.is_door for page in group["zoo"]):
        texts["zoo/index"] = zoo(group["zoo"])
    for name in ["index", *sections]:
        file = folder / f"{name}.md"
        if name in texts:
            file.parent.mkdir(exist_ok=True)
            file.write_text(texts[name] + "\n", encoding="utf-8")
    for line in without_alt(found):
        print(line)


def build(out: Path = ROOT / SETTINGS["doc_path"], pages: Path = PAGES) -> int:
    "Puts the site at `out`, in place of an earlier one, if Sphinx has nothing to warn of; its status otherwise."
    if out.exists() and any(out.iterdir()) and not (out / ".buildinfo").exists():
        raise ValueError(f"{out} holds something else than a site: name an empty folder with --out")
    shutil.rmtree(pages, ignore_errors=True)
    made = pages / ".sphinx" / "html"
    made.parent.mkdir(parents=True)
    write_pages(pages)
    status = sphinx(["-W", "--keep-going", "-q", "-E", "-b", "html", "-c", str(HERE), "-d", str(made.parent / "doctrees"),
                     str(pages), str(made)])
    if status == 0:
        (made / "_static" / "explorer-data.js").write_text(explorer_data(), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(made, out)
    return status


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / SETTINGS["doc_path"], help="folder of the site (default: %(default)s)")
    options, start = parser.parse_args(), time.time()
    if status := build(options.out.resolve()):
        return status
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file()) / 2**20
    print(f"{options.out}/index.html: {size:.0f} MB in {time.time() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
