"""Sphinx's settings. `build.py` runs it on the pages that it made; nothing here reaches out to a network."""
import importlib.util
import inspect
import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from notebooks import PACKAGE, SETTINGS  # noqa: E402

project, author, version = SETTINGS["title"], SETTINGS["author"], SETTINGS["version"]
release, copyright, language = version, author, "en"
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx.ext.linkcode", "sphinx_copybutton", "sphinx_design", "links"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
smartquotes_action = "q"  # options of commands keep their two dashes
myst_dmath_double_inline = True
exclude_patterns = [".sphinx", "figures"]
add_module_names = False
html_domain_indices = False

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = [str(HERE / "_static")]
html_favicon = str(HERE / "_static" / "icon.svg")
html_css_files = ["site.css"]
html_js_files = ["code.js"]
html_search_scorer = str(HERE / "scorer.js")
html_copy_source = False
html_show_sphinx = False
html_baseurl = SETTINGS["doc_host"] + SETTINGS["doc_baseurl"] + "/"
html_sidebars = {"**": ["sidebar-nav-bs"]} | {page: [] for page in ("index", "get_started", "explore", "related_work", "why_it_happens", "benchmarks", "changelog", "search", "genindex")}
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": project},
    "icon_links": [{"name": "Source code", "url": SETTINGS["git_url"], "icon": "fa-brands fa-github"}],
    "header_links_before_dropdown": 8,
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "back_to_top_button": False,
    "search_bar_text": "Search the documentation",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

# MathJax comes with a Python package, so that formulae need no network: the part of it that they use.
mathjax_path = "mathjax/tex-chtml.js"
MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
MATHJAX_PARTS = ["tex-chtml.js", "output/chtml/fonts", "input/tex/extensions"]
copybutton_selector = "div.highlight pre"
copybutton_exclude = ".linenos, .gp, .go"

external = tomllib.loads((HERE / "external.toml").read_text(encoding="utf-8"))  # for links.py


def linkcode_resolve(domain, info):
    "The line on GitHub where a symbol is defined."
    obj = importlib.import_module(info["module"])
    for part in info["fullname"].split("."):
        obj = getattr(obj, part)
    try:
        line = inspect.getsourcelines(getattr(obj, "fget", obj))[1]
    except (OSError, TypeError):  # a constant
        return None
    return f"{SETTINGS['git_url']}/blob/{SETTINGS['branch']}/{info['module'].replace('.', '/')}.py#L{line}"


def copy_mathjax(app, exception):
    for part in MATHJAX_PARTS if exception is None else []:
        target = Path(app.outdir) / "_static" / "mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (MATHJAX / part).is_dir() else shutil.copy
        copy(MATHJAX / part, target)


def name_toggles(app, exception):
    "The theme's arrows that unfold the rooms of a door have no text; a screen reader needs one."
    for file in Path(app.outdir).rglob("*.html") if exception is None else []:
        text = file.read_text(encoding="utf-8")
        named = text.replace('<summary><span class="toctree-toggle"', '<summary aria-label="Show the rooms"><span class="toctree-toggle"')
        if named != text:
            file.write_text(named, encoding="utf-8")


def setup(app):
    app.add_config_value("external", external, "env")
    app.connect("build-finished", name_toggles)
    app.connect("build-finished", copy_mathjax)
