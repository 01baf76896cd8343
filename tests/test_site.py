"""The documentation site, built to `_docs/` and read as a visitor reads it: in a browser, without a network.

Skipped where the `docs` extra or a browser is missing; with `SITE_MUST_BE_TESTED=1` that is a failure. Screenshots are kept
in `_screenshots/`.
"""
import functools
import http.server
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from house import DOORS, NBS, PACKAGE, PAGES, ROOT, SETTINGS
from house import defined_names, dotted, module_file, module_name, module_notebooks, notebooks, public_names

REQUIRED = bool(os.environ.get("SITE_MUST_BE_TESTED"))
SCREENSHOTS = ROOT / "_screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECTIONS = ["index", "get_started", "tutorials/index", "tutorials/swap_the_solver", "stay_an_ode", "why_it_happens", "explore", "related_work", "paper/index",
            "paper/figure_1", "api", "solvers/index", "solvers/steps", "training", "adaptation/adapters", "command_line", "cli/main",
            "benchmarks", "contributing", "changelog"]


def page_of(path):
    "Of a notebook: without numbers; the notebook of a door is the first page of its chapter."
    relative = path.relative_to(NBS)
    is_door = path.stem == f"00_{path.parent.name}"
    return relative.with_name("index" if is_door else re.sub(r"^\d+_", "", path.stem)).as_posix()


def reading_order(path):
    parts = path.relative_to(NBS).parts
    door = re.sub(r"^\d+_", "", parts[0]).removesuffix(".ipynb")
    return DOORS.index(door), parts


def without(reason):
    (pytest.fail if REQUIRED else pytest.skip)(reason)


@pytest.fixture(scope="session")
def built():
    "Where the site was built, what the build printed, and the processor time that it took, in seconds."
    try:
        import myst_nb  # noqa: F401
    except ImportError:
        without('the site is not tested: pip install -e ".[docs]"')
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        pytest.fail(f"docs/build.py failed\n{done.stdout}{done.stderr}", pytrace=False)
    return ROOT / SETTINGS["doc_path"], done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="session")
def site(built):
    return built[0]


@pytest.fixture(scope="session")
def pages(site):
    "Every page, parsed, by its path in the site."
    from bs4 import BeautifulSoup
    return {path.relative_to(site).as_posix(): BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            for path in sorted(site.rglob("*.html"))}


# What the files say

def test_building_is_quick_and_the_site_is_small(built):
    site, _, seconds = built
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 2**20
    assert seconds < 120 and size < 40, f"{seconds:.0f} s of processor time, {size:.0f} MB; allowed 120 s and 40 MB"


def test_every_notebook_is_a_page(pages):
    names = {page_of(path) for path in notebooks(NBS)}
    assert names | {"get_started"} <= {name.removesuffix(".html") for name in pages}


def test_every_figure_is_described(built, pages):
    assert "fig-alt" not in built[1], built[1]
    bad = [f"{name}: {img['src']}" for name, page in pages.items() for img in page.find_all("img") if not img.get("alt", "").strip()]
    assert not bad, "\n".join(bad)


def test_no_link_inside_the_site_is_dead(site, pages):
    ids = {name: {tag["id"] for tag in page.find_all(id=True)} for name, page in pages.items()}
    bad = []
    for name, page in pages.items():
        for tag in page.find_all("a", href=True):
            link = urlsplit(tag["href"])
            if link.scheme or link.netloc or tag["href"].startswith("#") and not link.fragment:
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(name), unquote(link.path))) if link.path else name
            if not (site / target).is_file() or link.fragment and unquote(link.fragment) not in ids[target]:
                bad.append(f"{name}: {tag['href']}")
    assert not bad, "\n".join(bad)


def test_every_public_name_has_its_place(pages):
    for path in module_notebooks(NBS):
        module = module_name(path)
        ids = {tag["id"] for tag in pages[f"{page_of(path)}.html"].find_all(id=True)}
        names = [f"{PACKAGE}.{dotted(module)}.{name}" for name in defined_names(module_file(module))]
        missing = [name for name in names if name not in ids]
        assert not missing, f"{page_of(path)}.html lacks {missing}"


def test_a_door_leads_to_where_its_names_are_documented(pages):
    doors = [path for path in module_notebooks(NBS) if page_of(path).endswith("/index")]
    assert len(doors) >= 11
    for path in doors:
        links = [tag["href"] for tag in pages[f"{page_of(path)}.html"].find("article").find_all("a", href=True)]
        missing = [name for name in public_names(module_file(module_name(path)))
                   if not any(link.endswith(f".{name}") for link in links)]
        assert not missing, f"{page_of(path)}.html does not link {missing}"


def test_a_name_is_documented_once(pages):
    found = [tag["id"] for page in pages.values() for tag in page.select("dt.sig[id]")]
    twice = {name for name in found if found.count(name) > 1}
    assert found and not twice, twice


def test_names_in_backticks_are_linked(pages):
    def links(name):
        return {tag["href"] for tag in pages[name].find_all("a", href=True) if tag.find("code")}
    swap = links("solver_swap/swap.html")
    assert f"../models/model.html#{PACKAGE}.models.model.ODEBlock" in swap
    assert any(link.startswith("https://docs.pytorch.org/") for link in swap)
    # as a reader writes them: a room, a name of a door, another door
    assert {"tableaus.html", f"solver.html#{PACKAGE}.solvers.solver.Solver"} <= links("solvers/index.html")
    assert {"solvers/index.html", "training.html"} <= links("get_started.html")


def test_directives_are_respected(pages):
    page = pages["solver_swap/swap.html"]
    assert "#|" not in page.get_text() and "nbdev_export" not in page.get_text() and "default_exp" not in page.get_text()
    assert page.find("details", string=None, class_="hide")


def test_the_notebooks_read_as_one_text(pages):
    modules = [path for path in module_notebooks(NBS) if path.relative_to(NBS).parts[0] not in PAGES]
    order = [f"{page_of(path)}.html" for path in sorted(modules, key=reading_order)]
    page, seen = order[0], []
    while page in order:
        seen.append(page)
        following = pages[page].find("link", rel="next")
        page = os.path.normpath(os.path.join(os.path.dirname(page), following["href"])) if following else None
        page = "cli/index.html" if page == "command_line.html" else page  # the reference stands between
    assert seen == order


def test_chapters_are_the_doors(pages):
    [start, table, *_] = pages["api.html"].find("article").find_all("table")  # first where to start, then all doors
    assert "audit" in start.get_text()
    first = [row.find("a")["href"] for row in table.find("tbody").find_all("tr")]
    assert first == [f"{door}/index.html" if (NBS / door).is_dir() else f"{door}.html"
                     for door in DOORS if door not in ("cli", *PAGES)]
    inside = {tag["href"] for tag in pages["api.html"].select("details a[href]")}
    rooms = {f"{page_of(path)}.html" for path in module_notebooks(NBS) if path.relative_to(NBS).parts[0] not in ("cli", *PAGES)}
    assert rooms - set(first) <= inside


def test_every_page_about_the_paper_is_in_the_index_of_claims(pages):
    table = pages["paper/index.html"].find("table")
    linked = {tag["href"].removesuffix(".html") for tag in table.find_all("a", href=True)}
    assert linked == {path.stem for path in notebooks(NBS) if path.parent.name == "paper"}
    assert "0.558" in table.get_text()  # a fact of figure 1, as its notebook has computed it
    assert "no facts yet" not in table.get_text(), "a page without a cell `#| facts`"


def test_colab_links_lead_to_notebooks_of_the_repository(pages):
    start = f"https://colab.research.google.com/github/{SETTINGS['user']}/{SETTINGS['repo']}/blob/{SETTINGS['branch']}/"
    tutorials = [path for path in notebooks(NBS) if path.parent.name == "tutorials"]
    links = [tag["href"] for page in pages.values() for tag in page.find_all("a", href=True) if "colab" in tag["href"]]
    assert sorted(links) == sorted(start + path.relative_to(ROOT).as_posix() for path in tutorials)


# What a browser shows

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser(built):
    api = pytest.importorskip("playwright.sync_api") if not REQUIRED else __import__("playwright.sync_api").sync_api
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as playwright:
        if not found and not Path(playwright.chromium.executable_path).exists():
            without(f"no browser here, looked for {', '.join(BROWSERS)}")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    "Opens a page and returns it; at the end nothing may have failed, and nothing may have been asked of other origins."
    contexts, trouble = [], []

    def opened(name, width=1280, theme="light", base=address):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, device_scale_factor=2)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and trouble.append(f"{name}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"{name}: {error}"))
        page.on("requestfailed", lambda request: trouble.append(f"{name}: failed {request.url}"))
        page.on("response", lambda response: response.status >= 400 and trouble.append(f"{name}: {response.status} {response.url}"))
        page.on("request", lambda request: request.url.startswith((base, "data:")) or trouble.append(f"{name}: foreign {request.url}"))
        page.goto(base + name, wait_until="networkidle")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not trouble, "\n".join(trouble)


def rendered(page) -> int:
    "Formulae that MathJax has set; all of them, or the test fails."
    page.wait_for_function("!document.querySelector('.math') || window.MathJax?.startup?.promise")
    page.evaluate("window.MathJax?.startup?.promise")
    wanted, found = page.locator(".math").count(), page.locator("mjx-container").count()
    assert wanted == found and not page.locator("mjx-merror").count(), f"{page.url}: {found} of {wanted} formulae"
    return found


def keep(page, name):
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.replace('/', '_')}.jpeg", full_page=True, scale="css", type="jpeg", quality=80)


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("width, theme", [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_a_page_of_every_section(name, width, theme, visit):
    from axe_playwright_python.sync_playwright import Axe
    page = visit(f"{name}.html", width, theme)
    assert page.locator("html").get_attribute("data-theme") == theme
    rendered(page)
    keep(page, f"{name}_{width}_{theme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    # without preloading, which would look for imported style sheets in the wrong folder
    problems = Axe().run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    found = [f"{problem['id']}: {problem['help']}: {problem['nodes'][0]['html'][:200]}"
             for problem in problems if problem["impact"] in ("serious", "critical")]
    assert not found, "\n".join(found)


SIDEWAYS = """() => [...document.querySelectorAll('article pre, article div, article table')].filter(e => {
    const overflow = getComputedStyle(e).overflowX;
    return ['auto', 'scroll'].includes(overflow) && e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1;
}).map(e => `${e.tagName}.${e.className} ${e.scrollWidth} > ${e.clientWidth}: ${e.textContent.trim().slice(0, 60)}`)"""


@pytest.mark.parametrize("width, theme", [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")])
def test_nothing_scrolls_sideways_on_any_page(width, theme, browser, pages, address):
    "Neither a page nor, on a wide screen, what is on it; on a telephone wide tables and code may."
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page, bad = context.new_page(), []
    for name in sorted(pages):
        page.goto(address + name, wait_until="load")
        found = page.evaluate("document.documentElement.scrollWidth")
        if found > width:
            bad.append(f"{name}: the page, {found} > {width}")
        if width == 1440:
            bad += [f"{name}: {line}" for line in page.evaluate(SIDEWAYS)]
    context.close()
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("width, allowed", [(1440, 900), (390, 1300)])
def test_a_page_of_the_paper_begins_with_its_figure(width, allowed, browser, pages, address):
    context = browser.new_context(viewport={"width": width, "height": 900})
    page, low = context.new_page(), []
    names = [name for name in sorted(pages) if name.startswith("paper/") and name != "paper/index.html" and pages[name].select("article img")]
    assert len(names) >= 10
    for name in names:
        page.goto(address + name, wait_until="load")
        top = page.evaluate("document.querySelector('article img').getBoundingClientRect().top + scrollY")
        if top > allowed:
            low.append(f"{name}: the first figure begins {top:.0f} px below the top, allowed {allowed}")
    context.close()
    assert not low, "\n".join(low)


def test_maths_is_set(visit):
    assert rendered(visit("crossing/trajectories.html")) > 10 and rendered(visit("why_it_happens.html")) > 5


def test_maths_needs_no_server(site, visit):
    assert rendered(visit("adaptation/adapters.html", base=f"{site.as_uri()}/")) > 10


def test_figures_are_sharp_on_dense_screens(visit):
    for name in ("paper/figure_1.html", "why_it_happens.html", "tutorials/first_solve.html"):
        densities = visit(name).eval_on_selector_all("article img", "images => images.map(i => i.naturalWidth / i.clientWidth)")
        assert densities and min(densities) >= 1.49, f"{name}: {densities} pixels of the figure to one of the page"


@pytest.mark.parametrize("query, target", [("ToleranceAdapter", "adaptation/adapters.html"), ("fingerprint", "error_fan/fan.html")])
def test_search_finds(query, target, visit):
    page = visit(f"search.html?q={query}")
    page.wait_for_selector(f"#search-results a[href*='{target}']", timeout=10_000)


@pytest.mark.parametrize("query", ["audit", "StepAdapter", "torchdiffeq"])
def test_search_finds_a_tutorial_or_a_class_first(query, visit):
    "The first result is a page that a person wants: a tutorial, a class or function, or the opening of a chapter."
    page = visit(f"search.html?q={query}")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    page.wait_for_timeout(1000)
    first = page.locator("#search-results li a").first.get_attribute("href")
    wanted = "tutorials/" in first or f".{query}" in first.partition("#")[2] or first.partition("?")[0].endswith("/index.html")
    assert wanted, f"the first result for {query} is {first}"


def test_tutorials_are_shown_with_a_picture_and_minutes_the_audit_first(pages):
    cards = pages["tutorials/index.html"].select("article .sd-card")
    assert len(cards) == sum(path.parent.name == "tutorials" for path in notebooks(NBS))
    assert "audit_your_model" in cards[0].find("a", href=True)["href"]
    assert all(re.search(r"\d+ minutes", card.get_text()) for card in cards)
    assert sum(bool(card.find("img")) for card in cards) >= len(cards) - 1


def test_the_theme_can_be_switched_and_stays(visit):
    page = visit("index.html")
    switch, seen = page.locator(".theme-switch-button:visible, .theme-switch-dropdown button:visible").first, set()
    switch.click()
    page.get_by_role("button", name="Dark").or_(page.get_by_text("Dark", exact=True)).first.click()
    seen.add(page.locator("html").get_attribute("data-theme"))
    page.reload()
    assert seen == {"dark"} == {page.locator("html").get_attribute("data-theme")}


def test_the_keyboard_reaches_the_text_first(visit):
    page = visit("solvers/index.html")
    page.keyboard.press("Tab")
    assert "skip" in page.evaluate("document.activeElement.textContent").lower()


def test_the_explorable_page_counts_as_python_does(visit):
    "The slider is moved as a visitor moves it; the samples counted right are those of the models in double precision."
    sys.path.insert(0, str(ROOT / "docs"))
    from explorer import explorer_models

    from neuralode_resnet.datasets import load
    from neuralode_resnet.solver_swap import predict, swapped

    data, page = load("sphere2", seed=0), visit("explore.html")
    root = page.locator("#explorer")
    places = {n: i for i, n in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64])}
    for i, (model, _) in enumerate(explorer_models()):
        page.check(f'input[name="explorer-model"][value="{i}"]')
        for method, n in (("euler", 2), ("euler", 4), ("midpoint", 3), ("rk4", 4), ("rk4", 16)):
            page.select_option("[data-part=method]", method)
            slider = page.locator("[data-part=steps]")
            slider.focus()
            page.keyboard.press("Home")
            for _ in range(places[n]):
                page.keyboard.press("ArrowRight")
            assert slider.get_attribute("aria-valuetext") == f"{n} steps"
            page.wait_for_function("document.getElementById('explorer').dataset.right !== ''", timeout=30_000)
            with swapped(model, f"{method}@1/{n}"):
                classes = predict(model, data.x_test)[0][0]
            right = int((classes == data.y_test).sum())
            assert int(root.get_attribute("data-right")) == right, (i, method, n)
