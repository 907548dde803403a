"""The built website, in a browser and on the disk: PYNCETTE_SITE says where it is, as `nox -s docs` does."""

import functools
import http.server
import os
import runpy
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools")]

from browser import browser, resize  # noqa: E402

BUILD = runpy.run_path(str(ROOT / "tools" / "site" / "build.py"))
mapped = BUILD["mapped"]
SITE = Path(os.environ.get("PYNCETTE_SITE", ROOT / ".nox" / "site"))
PAGES = sorted(path.name for path in SITE.glob("*.html"))
PHONE, DESK = (390, 844), (1280, 900)


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chrome() -> Iterator[webdriver.Chrome]:
    with browser() as found:
        yield found


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.03)
    return found


def background(chrome: webdriver.Chrome) -> str:
    return str(chrome.execute_script("return getComputedStyle(document.body).backgroundColor"))


def test_every_page_loads_without_complaints_and_fits_on_a_telephone(url: str, chrome: webdriver.Chrome) -> None:
    assert len(PAGES) > 30
    resize(chrome, *PHONE)
    loaded = "return [document.documentElement.scrollWidth, performance.getEntriesByType('resource').map(each => each.name)]"
    for page in PAGES:
        chrome.get(url + page)
        width, resources = chrome.execute_script(loaded)
        assert width <= PHONE[0], f"{page} is {width} wide"
        assert [each for each in resources if not each.startswith(url)] == [], page
        complaints = chrome.get_log("browser")  # type: ignore[no-untyped-call]
        assert [each for each in complaints if "favicon.ico" not in each["message"]] == [], page


def test_the_search_finds_the_page_of_a_word(url: str, chrome: webdriver.Chrome) -> None:
    resize(chrome, *DESK)
    chrome.get(url)
    box = chrome.find_element(By.CSS_SELECTOR, "input.sidebar-search")
    box.send_keys("fencing token")
    box.submit()
    found = until(
        lambda: [each.get_attribute("href") or "" for each in chrome.find_elements(By.CSS_SELECTOR, "#search-results li a")]
    )
    assert any("delivery.html" in each for each in found)


@pytest.mark.parametrize("dark", [False, True])
def test_the_theme_is_that_of_the_system_until_it_is_switched(url: str, chrome: webdriver.Chrome, dark: bool) -> None:
    resize(chrome, *DESK, dark=dark)
    chrome.get(url)
    chrome.execute_script("localStorage.clear()")
    chrome.get(url)
    before = background(chrome)
    channel = int(before.removeprefix("rgb(").partition(",")[0])
    assert (channel < 128) == dark
    switch = next(each for each in chrome.find_elements(By.CSS_SELECTOR, "button.theme-toggle") if each.is_displayed())
    switch.click()
    until(lambda: background(chrome) != before)


class Reader(HTMLParser):
    """The places of a page, and where its links, pictures and scripts lead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = {""}
        self.links: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name"):
                self.places.add(value or "")
            elif name in ("href", "src"):
                self.links.append(value or "")


def test_no_link_of_the_site_is_dead() -> None:
    read = {path: Reader(path) for path in SITE.glob("*.html")}
    dead = []
    for path, page in read.items():
        for link in page.links:
            if "://" in link or link.startswith(("mailto:", "data:")):
                continue
            where, place = urldefrag(unquote(link))
            target = (path.parent / where.partition("?")[0]).resolve() if where else path
            if not target.exists() or (target in read and place not in read[target].places):
                dead.append(f"{path.name}: {link}")
    assert dead == []


def test_pages_as_markdown_have_their_pictures_and_files_beside_them() -> None:
    def beside(page: Path, link: str) -> str:
        if "://" not in link and not link.startswith(("#", "mailto:")):
            assert (page.parent / link.partition("#")[0]).exists(), f"{page.name}: {link}"
        return link

    for path in [*SITE.glob("*.md"), SITE / "llms.txt"]:
        mapped(path.read_text(), functools.partial(beside, path))
    assert {path.stem for path in SITE.glob("*.md")} == {Path(page).stem for page in PAGES} - {"genindex", "py-modindex", "search"}
    assert all(f"({path.name})" in (SITE / "llms.txt").read_text() for path in SITE.glob("*.md"))


def test_what_looks_like_a_link_in_code_stays_as_it_is() -> None:
    page = "[a\nb](one) `[c](two)` [`d`](three)\n````text\n```\n[e](four)\n```\n[f](five)\n````\n![g](six)\n"
    assert mapped(page, str.upper) == page.replace("(one)", "(ONE)").replace("(three)", "(THREE)").replace("(six)", "(SIX)")
    assert mapped("[`x.py`](x.py) [the file](y.py)", lambda link: None) == "`x.py` the file (`y.py`)"


def test_a_page_in_no_chapter_and_a_chapter_of_no_page_are_errors() -> None:
    texts = dict.fromkeys((path.name for path in SITE.glob("*.md")), "")
    BUILD["chapters"](texts)
    with pytest.raises(SystemExit, match="pages differ: forgotten"):
        BUILD["chapters"]({**texts, "forgotten.md": ""})
    texts.pop("tutorial.md")
    with pytest.raises(SystemExit, match="pages differ: tutorial"):
        BUILD["chapters"](texts)


def test_a_diagram_that_a_browser_could_not_draw_and_a_link_to_nothing_are_errors() -> None:
    with pytest.raises(SystemExit, match="Mermaid"):
        mapped("# Page\n\n```mermaid\nstateDiagram-v2\n```\n", str)
    with pytest.raises(SystemExit, match=r"docs/usage.md: there is no nothing.md"):
        BUILD["_target"](ROOT / "docs" / "usage.md", {}, set(), "nothing.md")


def test_the_reference_has_every_member_and_none_of_builtin_types() -> None:
    reference = (SITE / "api.md").read_text()
    assert [
        each for each in ("#### SUCCEEDED", "#### host ", "#### row ", "body: None = None, /, \\*, ") if each not in reference
    ] == []
    assert [each for each in ("add_note", "casefold", "errno", "close_registrar") if each in reference] == []
