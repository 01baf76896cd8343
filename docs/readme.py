"""Makes README.md from nbs/index.ipynb: `python docs/readme.py`."""
import re
from configparser import ConfigParser
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(\w+).*\n?", re.MULTILINE)

ALT = ("Two models, a row each. Two Euler steps: under a solver ten times finer the points jump across the decision line, and "
       "the accuracy falls to one half. The recommended scheme: the points stay, and so does the accuracy.")


def shown(cell) -> bool:
    "Raw cells hold settings of the site, and `#| hide` is for cells that readers need not see."
    return cell.cell_type != "raw" and not (cell.cell_type == "code" and "hide" in DIRECTIVE.findall(cell.source))


def plain(cell):
    "Without directives, and with outputs as text: a picture inside a notebook has no address that a README could show."
    if cell.cell_type == "code":
        cell.source = DIRECTIVE.sub("", cell.source)
        for output in cell.outputs:
            if "data" in output:
                output.data = {mime: text for mime, text in output.data.items() if mime == "text/plain"}
    return cell


def picture() -> str:
    "What the demo draws, at an address that every page can show which shows the README."
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    raw = settings["DEFAULT"]["git_url"].replace("github.com", "raw.githubusercontent.com")
    return f"![{ALT}]({raw}/{settings['DEFAULT']['branch']}/docs/_static/demo.png)"


def readme(
    notebook: Path = ROOT / "nbs" / "index.ipynb",  # the front page
) -> str:  # its Markdown
    "The front page as Markdown, the same whatever machine makes it."
    nb = nbformat.read(notebook, as_version=4)
    nb.cells = [plain(cell) for cell in nb.cells if shown(cell)]
    # cleaned notebooks do not say it, and without it code blocks are not coloured
    nb.metadata.language_info = {"name": "python"}
    markdown, _ = MarkdownExporter().from_notebook_node(nb)
    markdown = re.sub(r"\]\((?=[\w/]+\.ipynb)", "](nbs/", markdown)  # links from notebook to notebook start in nbs/
    markdown = markdown.replace("## Audit your model", f"{picture()}\n\n## Audit your model", 1)
    lines = (line.rstrip() for line in markdown.splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
