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
from house import LIB, NBS, ROOT, SETTINGS, module_name, module_notebooks, notebooks, public_names

REQUIRED = bool(os.environ.get("SITE_MUST_BE_TESTED"))
SCREENSHOTS = ROOT / "_screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECTIONS = ["index", "get_started", "tutorials/index", "tutorials/swap_the_solver", "why_it_happens", "paper/index",
            "paper/figure_1", "api", "solvers", "training", "adaptation", "command_line", "cli", "benchmarks", "changelog"]


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
    names = {(path.parent / re.sub(r"^\d+[a-z]?_", "", path.stem)).relative_to(NBS).as_posix() for path in notebooks(NBS)}
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
        ids = {tag["id"] for tag in pages[f"{module}.html"].find_all(id=True)}
        missing = [name for name in public_names(LIB / f"{module}.py") if f"{SETTINGS['lib_name']}.{module}.{name}" not in ids]
        assert not missing, f"{module}.html lacks {missing}"


def test_names_in_backticks_are_linked(pages):
    links = {tag["href"] for tag in pages["solver_swap.html"].find_all("a", href=True) if tag.find("code")}
    assert f"models.html#{SETTINGS['lib_name']}.models.ODEBlock" in links and "crossing.html" in links
    assert any(link.startswith("https://docs.pytorch.org/") for link in links)


def test_directives_are_respected(pages):
    text = pages["solver_swap.html"].get_text()
    assert "#|" not in text and "nbdev_export" not in text and "default_exp" not in text
    assert pages["solver_swap.html"].find("details", string=None, class_="hide")


def test_the_numbered_notebooks_read_as_one_text(pages):
    order = [f"{module_name(path)}.html" for path in module_notebooks(NBS)]
    page, seen = order[0], []
    while page in order:
        seen.append(page)
        following = pages[page].find("link", rel="next")
        page = following["href"] if following else None
        page = "cli.html" if page == "command_line.html" else page  # the reference stands between
    assert seen == order


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


def test_maths_is_set(visit):
    assert rendered(visit("crossing.html")) > 10 and rendered(visit("why_it_happens.html")) > 5


def test_maths_needs_no_server(site, visit):
    assert rendered(visit("adaptation.html", base=f"{site.as_uri()}/")) > 10


def test_figures_are_sharp_on_dense_screens(visit):
    for name in ("paper/figure_1.html", "why_it_happens.html", "tutorials/first_solve.html"):
        densities = visit(name).eval_on_selector_all("article img", "images => images.map(i => i.naturalWidth / i.clientWidth)")
        assert densities and min(densities) >= 1.49, f"{name}: {densities} pixels of the figure to one of the page"


@pytest.mark.parametrize("query, target", [("ToleranceAdapter", "adaptation.html"), ("fingerprint", "error_fan.html")])
def test_search_finds(query, target, visit):
    page = visit(f"search.html?q={query}")
    page.wait_for_selector(f"#search-results a[href*='{target}']", timeout=10_000)


def test_the_theme_can_be_switched_and_stays(visit):
    page = visit("index.html")
    switch, seen = page.locator(".theme-switch-button:visible, .theme-switch-dropdown button:visible").first, set()
    switch.click()
    page.get_by_role("button", name="Dark").or_(page.get_by_text("Dark", exact=True)).first.click()
    seen.add(page.locator("html").get_attribute("data-theme"))
    page.reload()
    assert seen == {"dark"} == {page.locator("html").get_attribute("data-theme")}


def test_the_keyboard_reaches_the_text_first(visit):
    page = visit("solvers.html")
    page.keyboard.press("Tab")
    assert "skip" in page.evaluate("document.activeElement.textContent").lower()
