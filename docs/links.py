"""Links every name in backticks to where it is defined: here, or in the documentation of another library."""
import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from notebooks import NBS, PACKAGE, home, notebooks

NOTEBOOK = re.compile(r"^(?:nbs/)?(?P<name>[\w/.]+?)(?:\.ipynb)?$")
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
    "Symbols by each of their names, pages by the names of their notebooks and modules, names that pages import."
    pages = notebooks()
    doors = {}  # where a name is defined: the doors that hand it on
    for page in pages:
        for name, module in page.handed_on.items():
            doors.setdefault((home(name, module), name), []).append(page.module)
    modules = {page.module for page in pages if page.module}
    for full, entry in env.get_domain("py").objects.items():
        if entry.objtype == "module":
            continue
        parts = full.split(".")
        cut = next(cut for cut in range(len(parts) - 1, 0, -1) if ".".join(parts[:cut]) in modules)
        module, rest = ".".join(parts[:cut]), ".".join(parts[cut:])
        places = [module, *doors.get((module, parts[cut]), [])]
        names = {rest, f"{parts[cut - 1]}.{rest}", *(f"{place}.{rest}" for place in places)}
        for name in names | {name.removeprefix(f"{PACKAGE}.") for name in names}:
            app.site_symbols.setdefault(name, set()).add((entry.docname, entry.node_id))
    for notebook in pages:
        page = "get_started" if notebook.name == "index" else notebook.name
        names = {notebook.path.relative_to(NBS).with_suffix("").as_posix(), notebook.name}
        if notebook.module:
            names |= {notebook.module, notebook.module.removeprefix(f"{PACKAGE}.")}
        app.site_pages |= dict.fromkeys(names, page)
        lists = re.findall(rf"from {PACKAGE}[.\w]* import (?:\(([^)]*)\)|([\w, ]+))", "\n".join(cell.source for cell in notebook.code))
        app.site_imports[page] = {name.strip() for several in lists for name in "".join(several).split(",")}


def setup(app):
    app.site_symbols, app.site_pages, app.site_imports = {}, {}, {}
    app.connect("env-updated", gather)
    app.add_post_transform(LinkNames)
