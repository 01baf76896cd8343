"""Links every name in backticks to where it is defined: here, or in the documentation of another library."""
import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from notebooks import PACKAGE, notebooks

NOTEBOOK = re.compile(r"^(?:nbs/)?(?P<name>[\w/]+?)(?:\.ipynb)?$")
LINKED_ALREADY = (nodes.reference, nodes.title, addnodes.desc_signature)


class LinkNames(SphinxPostTransform):
    "Turns literals that name a symbol, a module or a notebook into references."
    default_priority = 900

    def run(self, **kwargs):
        for literal in list(self.document.findall(nodes.literal)):
            if not any(isinstance(parent, LINKED_ALREADY) for parent in ancestors(literal)):
                if reference := self.reference(literal):
                    literal.replace_self(reference)

    def reference(self, literal):
        name, here = literal.astext().removesuffix("()"), self.env.docname
        place = self.symbol(name, here) or self.page(name)
        if place and place != (here, ""):
            return make_refnode(self.app.builder, here, *place, literal.deepcopy(), name)
        address = self.config.external.get(name)
        return nodes.reference("", "", literal.deepcopy(), refuri=address) if address else None

    def symbol(self, name, here):
        """Page and anchor of a public name of ours. A bare name in small letters may be an argument or a column as well:
        it counts as the symbol where Python would take it for that, on pages that define or import it."""
        places = self.app.site_symbols.get(name, set())
        if "." not in name and name == name.lower():
            places = {place for place in places if place[0] == here or name in self.app.site_imports.get(here, ())}
        return next(iter(places)) if len(places) == 1 else None

    def page(self, name):
        match = NOTEBOOK.match(name)
        docname = self.app.site_pages.get(match["name"]) if match else None
        return (docname, "") if docname else None


def ancestors(node):
    while node := node.parent:
        yield node


def gather(app, env):
    "Symbols by each of their short names, pages by the names of their notebooks and modules, names that pages import."
    for full, entry in env.get_domain("py").objects.items():
        parts = full.removeprefix(f"{PACKAGE}.").split(".")
        if entry.objtype == "module":
            continue
        for name in {full, ".".join(parts), ".".join(parts[1:])}:
            app.site_symbols.setdefault(name, set()).add((entry.docname, entry.node_id))
    for notebook in notebooks():
        page = "get_started" if notebook.name == "index" else notebook.name
        names = {notebook.path.stem if not notebook.folder else f"{notebook.folder}/{notebook.path.stem}", notebook.name}
        app.site_pages |= dict.fromkeys(names | ({notebook.module} if notebook.module else set()), page)
        lists = re.findall(rf"from {PACKAGE}[.\w]* import ([\w, ]+)", "\n".join(cell.source for cell in notebook.code))
        app.site_imports[page] = {name.strip() for names in lists for name in names.split(",")}


def setup(app):
    app.site_symbols, app.site_pages, app.site_imports = {}, {}, {}
    app.connect("env-updated", gather)
    app.add_post_transform(LinkNames)
