"""A real browser walks through every page and presses every button, on a real store and a running application."""

import asyncio
import itertools
import os
import uuid

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from walking import HOSTILE, Served, Viewer, browser, resize, until

from pyncette.dashboard import application, survey
from pyncette.dashboard.actions import ACTIONS

PAGES = [
    "",
    "task?name=deliver",
    "task?name=deliver&state=failed",
    "instance?task=deliver&name=order+3",
    "instance?task=copy_prices",
    "failed",
    "upcoming",
    "workers",
    "undeclared",
    "jobs",
    "act?do=backfill&task=copy_prices",
    "act?do=unschedule&task=deliver&name=order+3",
    "task?name=nothing",
]


@pytest.fixture(autouse=True, scope="module")
def at_once():
    """What has changed is seen sooner than by people."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(application, "_REFRESH", 200)
        patch.setattr(survey, "_EVERY", 0.2)
        yield


@pytest.fixture(scope="module")
def chrome():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(f"sqlite:///{tmp_path_factory.mktemp('shop')}/shop.db") as found:
        yield found


@pytest.fixture
def viewer(chrome, served):
    resize(chrome, 1280, 900)
    viewer = Viewer(chrome, served)
    yield viewer
    chrome.get("about:blank")
    assert not [each for each in chrome.get_log("browser") if each["level"] == "SEVERE" and each["source"] != "network"]


LOST = [f"lost {number}" for number in range(4)]


def walk(viewer):
    """Every page, and the main actions."""
    for page in PAGES:
        viewer.go(page)
        viewer.sees("Signed in as ann@ops-1" if page != "task?name=nothing" else "That did not work")
        assert viewer.chrome.title.endswith("Pyncette")
    viewer.go("instance?task=deliver&name=order+7")
    viewer.act("Pause", note="<b>why</b>")
    viewer.sees("order 7 of deliver is paused.", "by ann@ops-1: <b>why</b>")
    assert viewer.served.get("deliver", "order 7").state == "paused"
    viewer.act("Resume")
    viewer.sees("order 7 of deliver is resumed.")
    viewer.act("Run now")
    viewer.sees("order 7 of deliver runs again.", "succeeded")  # without reloading
    viewer.act("Reschedule", schedule="0 9 * * 1", zone="Europe/London")
    viewer.sees("has another schedule", "cron 0 9 * * 1 @Europe/London")
    viewer.act("Unschedule")
    viewer.sees("order 7 of deliver is unscheduled.")
    assert viewer.served.get("deliver", "order 7") is None
    viewer.go("failed")
    viewer.sees("lost 0", "no route to the warehouse <b>for lost 0</b>")
    viewer.act("Retry all")
    viewer.job()
    until(lambda: all(viewer.served.get("deliver", each).state == "failed" for each in LOST))


@pytest.mark.parametrize("store", ["redis", "postgres"])
def test_every_page_and_the_main_actions_on_a_server(store, chrome):
    url = os.environ[f"PYNCETTE_TEST_{store.upper()}_URL"]
    place = f"{'namespace' if store == 'redis' else 'table_name'}=dashboard_{uuid.uuid4().hex[:12]}"
    with Served(f"{url}{'&' if '?' in url else '?'}{place}") as served:
        walk(Viewer(chrome, served))


def test_every_button(viewer):
    walk(viewer)
    get = viewer.served.get

    viewer.go("instance?task=copy_prices")
    viewer.ask("Backfill", start="2025-12-01T00:00", end="2025-12-03T00:00")
    viewer.find("dialog[open] [name=dry]", lambda box: box.click())
    viewer.sees("2 runs would be added")
    viewer.confirm()
    viewer.sees("2 runs of copy_prices are added.")
    viewer.act("Pause", note="")
    viewer.sees("copy_prices is paused.")
    viewer.act("Resume")
    viewer.sees("copy_prices is resumed.")
    viewer.ask("Run now")
    viewer.follow("Cancel", "dialog")
    until(lambda: not viewer.chrome.find_elements(By.CSS_SELECTOR, "dialog[open]"))

    viewer.go("failed")
    viewer.act("Retry")
    viewer.sees("lost 0 of deliver is retried.")
    until(lambda: get("deliver", "lost 0").state == "failed")
    viewer.go("failed")
    viewer.act("Discard")
    until(lambda: any(get("deliver", each) is None for each in LOST))
    viewer.go("task?name=deliver&state=failed&prefix=lost")
    viewer.act("Retry these")
    viewer.job()
    viewer.sees("3 done")
    until(lambda: all(get("deliver", each) is None or get("deliver", each).state == "failed" for each in LOST))

    viewer.go("failed")
    viewer.act("Discard all")  # of deliver: the rows of invoice will be retried, so there is nothing to discard
    viewer.job()
    assert [each for each in LOST if get("deliver", each) is not None] == []

    viewer.go("task?name=deliver&prefix=order+1")
    viewer.act("Pause these", note="all of them")
    viewer.job()
    assert (get("deliver", "order 12").state, get("deliver", "order 2").state) == ("paused", "scheduled")
    viewer.go("task?name=deliver&prefix=order+1")
    viewer.act("Resume these")
    viewer.job()
    assert get("deliver", "order 12").state == "scheduled"
    viewer.go("task?name=deliver&prefix=order+6")
    viewer.act("Unschedule these")
    viewer.job()
    assert (get("deliver", "order 61"), get("deliver", "order 12").state) == (None, "scheduled")

    viewer.go("task?name=remind")
    viewer.act("Pause all", note="")
    viewer.sees("All of remind is paused", "Paused as a whole by ann@ops-1")
    viewer.act("Resume all")
    viewer.sees("All of remind is resumed")

    viewer.go("undeclared")
    viewer.sees("<i>former</i>")
    viewer.act("Remove")
    viewer.job()
    viewer.sees("3 done")
    viewer.go("undeclared")
    viewer.sees("There are none.")
    assert viewer.pressed == {action.label for action in ACTIONS.values()}


def test_what_is_done_to_many_shows_how_far_it_is_and_can_be_stopped(viewer):
    client = viewer.served.ask(viewer.served.dashboard._connection.client())
    pause_task, calls = client.pause_task, itertools.count()

    async def pause_some(*arguments, **more):
        if next(calls) >= 40:
            await asyncio.Event().wait()
        return await pause_task(*arguments, **more)

    client.pause_task = pause_some
    viewer.go("task?name=deliver&state=scheduled&prefix=order")
    viewer.act("Pause these", note="")
    viewer.sees("40 done")
    del client.pause_task
    viewer.follow("Stop")
    viewer.job("stopped")
    viewer.go("jobs")
    viewer.sees("Pause these: deliver", "stopped")
    [deliver] = (task for task in client.tasks if task.name == "deliver")
    found = viewer.served.ask(viewer.served.context.list_tasks(deliver, limit=300)).tasks
    assert sum(each.state == "paused" and each.name != "order 3" for each in found) == 40
    viewer.go("task?name=deliver&state=paused&prefix=order")
    viewer.act("Resume these")
    viewer.job()


def test_what_only_looks(viewer):
    viewer.go("task?name=deliver")
    viewer.follow("Next page")
    viewer.sees("From the start")
    viewer.follow("From the start")
    viewer.fill("main", prefix="<")
    viewer.follow("Find")
    viewer.sees("<script>document.title='owned'</script>")
    for name in HOSTILE:
        viewer.go(f"instance?task=deliver&{viewer.served.query(name)}")
        viewer.sees("Next occurrences")
        assert viewer.chrome.title != "owned"
    viewer.go("instance?task=deliver&name=order+3")
    viewer.follow("Show")
    viewer.sees('"to": "ada"')
    viewer.go("upcoming")
    viewer.fill("main", zone="Europe/Berlin", task="copy_prices")
    viewer.follow("Show")
    viewer.sees("copy_prices")

    viewer.go("instance?task=copy_prices")
    time_of = "return document.querySelector('ol.times time').textContent"
    for zone, shown in (("utc", "UTC"), ("task", "02:00:00")):
        viewer.chrome.execute_script(
            "const s = document.getElementById('zone'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))", zone
        )
        until(lambda shown=shown: shown in viewer.chrome.execute_script(time_of))
    viewer.chrome.execute_script("localStorage.clear()")


#: What reaches beyond the width that is wanted, if that makes the page scroll; and how high the texts of charts are.
TOO_WIDE = """
const reaches = e => e.getBoundingClientRect().right > arguments[0] && !e.closest('nav');
return [
  document.documentElement.scrollWidth > arguments[0] ? [...document.querySelectorAll('body *')].filter(reaches).map(e => e.outerHTML) : [],
  [...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height),
];
"""
#: Each text on the page, and each mark of a chart, whose colour is too close to what is behind it.
TOO_PALE = """
const parts = text => { const found = text.match(/[\\d.]+/g).map(Number); return [found[0], found[1], found[2], found[3] ?? 1]; };
const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = e => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; }
  return [255, 255, 255]; };
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const pale = [];
const judge = (e, colour, wanted, what) => { const found = ratio(parts(colour), behind(e)); if (found < wanted) pale.push([what, found, colour]); };
for (const e of document.querySelectorAll('body *')) {
  const style = getComputedStyle(e);
  if (!e.getClientRects().length || style.visibility === 'hidden') continue;
  if (e instanceof SVGElement) {
    if (e.matches('text')) judge(e, style.fill, 4.5, e.textContent);
    if (e.matches('circle, rect.bar:not(.empty)')) judge(e, style.fill, 3, e.className.baseVal);
  } else if ([...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.matches('input, select, button')) {
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    judge(e, style.color, large ? 3 : 4.5, e.textContent || e.name);
    if (e.matches('input, select, button')) judge(e.parentElement, style.borderTopColor, 3, 'the border of ' + (e.name || e.textContent));
  }
}
return pale;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_is_readable_in_both_themes_and_at_every_width(dark, viewer):
    for page in PAGES:
        viewer.go(page)
        for width, height in ((360, 740), (768, 1024), (3840, 2160)):
            resize(viewer.chrome, width, height, dark=dark)
            until(lambda width=width: abs(viewer.chrome.execute_script("return innerWidth") - width) < 100)
            beyond, heights = viewer.chrome.execute_script(TOO_WIDE, width)
            assert beyond == [], (page, width)
            assert all(height > 12 for height in heights), (page, width)
        assert viewer.chrome.execute_script(TOO_PALE) == [], page


def test_the_theme_is_remembered(viewer):
    background = "return getComputedStyle(document.documentElement).backgroundColor"
    viewer.go("")
    before = viewer.chrome.execute_script(background)
    viewer.find("#theme", lambda button: button.click())
    after = until(lambda: (found := viewer.chrome.execute_script(background)) != before and found)
    viewer.go("workers")
    assert viewer.chrome.execute_script(background) == after
    viewer.chrome.execute_script("localStorage.clear()")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(viewer):
    named = "(e => e.getAttribute('href') || e.name || e.id || e.textContent)"
    there = f"return [...document.querySelectorAll('a, button, input:not([type=hidden]), select')].map({named})"
    focused = f"""const e = document.activeElement, style = getComputedStyle(e), place = e.getBoundingClientRect();
        return e === document.body ? null : [{named}(e), style.outlineStyle !== 'none' && place.left >= 0 && place.width > 0]"""
    keys = ActionChains(viewer.chrome, duration=0)
    for page in (
        "",
        "task?name=deliver&prefix=order+3",
        "instance?task=deliver&name=order+3",
        "upcoming?task=copy_prices",
        "undeclared",
    ):
        viewer.go(page)
        until(lambda: "still looking" not in viewer.text)
        wanted, reached = set(viewer.chrome.execute_script(there)), set()
        for _ in range(4 * len(wanted)):
            keys.send_keys(Keys.TAB).perform()
            found = viewer.chrome.execute_script(focused)
            if found is None:
                break
            assert found[1], (page, found)
            reached.add(found[0])
        assert wanted <= reached, page
    viewer.go("")
    keys.send_keys(Keys.TAB).perform()
    keys.send_keys(Keys.ENTER).perform()  # on the link that skips the navigation
    until(lambda: viewer.chrome.execute_script("return document.activeElement.id") == "main")
    viewer.go("instance?task=deliver&name=order+3")
    link = viewer.find("a[data-act]", lambda found: found.get_attribute("href"))
    viewer.chrome.execute_script("document.querySelector('a[data-act]').focus()")
    keys.send_keys(Keys.ENTER).perform()
    viewer.find("dialog[open] form")
    keys.send_keys(Keys.ESCAPE).perform()
    until(lambda: viewer.chrome.execute_script("return document.activeElement.href") == link)
