"""A real browser walks through every page and action, on a real store and a running application."""

import os
import uuid

import pytest
from selenium.webdriver.common.by import By
from walking import HOSTILE, Served, browser, until

PAGES = [
    "",
    "task?name=deliver",
    "instance?task=deliver&name=order+3",
    "instance?task=copy_prices",
    "failed",
    "upcoming",
    "workers",
    "undeclared",
    "jobs",
]


@pytest.fixture(scope="module")
def chrome():
    with browser() as found:
        yield found


def url_of(store, tmp_path):
    if store == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    place = f"dashboard_{uuid.uuid4().hex[:12]}"
    url = os.environ[f"PYNCETTE_TEST_{store.upper()}_URL"]
    return f"{url}{'&' if '?' in url else '?'}{'namespace' if store == 'redis' else 'table_name'}={place}"


@pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"])
def test_every_page_and_action(store, tmp_path, chrome):
    with Served(url_of(store, tmp_path)) as served:

        def shown():
            return chrome.find_element(By.TAG_NAME, "body").text

        def act(label, **fields):
            """Press the button of that label, fill in what is asked in the dialog, and confirm."""
            until(lambda: chrome.find_element(By.XPATH, f"//main//a[@data-act][.='{label}']").click() or True)
            ask = until(lambda: chrome.find_element(By.CSS_SELECTOR, "dialog[open] form"))
            for name, value in fields.items():
                chrome.execute_script("arguments[0].value = arguments[1]", ask.find_element(By.NAME, name), value)
            ask.find_element(By.CSS_SELECTOR, "button.primary").click()

        for page in PAGES:
            until(lambda page=page: chrome.get(served.url + page) or "Signed in as ann@ops-1" in shown())
            assert "did not work" not in shown()
            assert chrome.title.endswith("Pyncette")
        chrome.get(f"{served.url}task?name=deliver&prefix=%3C")
        assert "<script>document.title='owned'</script>" in shown()
        for name in HOSTILE:
            chrome.get(f"{served.url}instance?task=deliver&{served.query(name)}")
            until(lambda: "Next occurrences" in shown())
            assert chrome.title != "owned"

        chrome.get(f"{served.url}instance?task=deliver&name=order+7")
        act("Pause", note="<b>why</b>")
        until(lambda: "order 7 of deliver is paused." in shown() and "by ann@ops-1: <b>why</b>" in shown())
        assert served.get("deliver", "order 7").state == "paused"
        act("Resume")
        until(lambda: "order 7 of deliver is resumed." in shown())
        act("Run now")
        until(lambda: "order 7 of deliver runs again." in shown())
        until(lambda: "succeeded" in shown())  # without reloading
        act("Reschedule", schedule="0 9 * * 1", zone="Europe/London")
        until(lambda: "has another schedule" in shown() and "cron 0 9 * * 1 @Europe/London" in shown())
        act("Unschedule")
        until(lambda: "order 7 of deliver is unscheduled." in shown())
        assert served.get("deliver", "order 7") is None

        chrome.get(f"{served.url}instance?task=copy_prices")
        until(lambda: chrome.find_element(By.XPATH, "//main//a[@data-act][.='Backfill']").click() or True)
        ask = until(lambda: chrome.find_element(By.CSS_SELECTOR, "dialog[open] form"))
        for name, value in {"start": "2025-12-01T00:00", "end": "2025-12-03T00:00"}.items():
            chrome.execute_script("arguments[0].value = arguments[1]", ask.find_element(By.NAME, name), value)
        ask.find_element(By.NAME, "dry").click()
        until(lambda: "2 runs would be added" in chrome.find_element(By.CSS_SELECTOR, "dialog[open]").text)
        chrome.find_element(By.CSS_SELECTOR, "dialog[open] button.primary").click()
        until(lambda: "2 runs of copy_prices are added." in shown())

        chrome.get(f"{served.url}failed")
        until(lambda: "lost 0" in shown())
        act("Retry all")
        until(lambda: "done" in chrome.find_element(By.ID, "job").get_attribute("data-state"))
        until(
            lambda: all(served.get("deliver", f"lost {number}").state == "failed" for number in range(4))
        )  # they have failed again
        chrome.get(f"{served.url}failed")
        act("Discard all")
        until(lambda: "done" in chrome.find_element(By.ID, "job").get_attribute("data-state"))
        until(lambda: served.get("deliver", "lost 0") is None)

        chrome.get(f"{served.url}task?name=deliver&prefix=order+1")
        act("Pause these", note="all of them")
        until(lambda: "done" in chrome.find_element(By.ID, "job").get_attribute("data-state"))
        assert (served.get("deliver", "order 12").state, served.get("deliver", "order 2").state) == ("paused", "scheduled")
        chrome.get(f"{served.url}task?name=remind")
        act("Pause all", note="")
        until(lambda: "All of remind is paused" in shown() and "Paused as a whole by ann@ops-1" in shown())
        act("Resume all")
        until(lambda: "All of remind is resumed" in shown())
        assert not [entry for entry in chrome.get_log("browser") if "Content Security Policy" in entry["message"]]


def test_dark_and_light_and_the_keyboard(tmp_path, chrome):
    with Served(url_of("sqlite", tmp_path)) as served:
        chrome.get(served.url)
        chrome.execute_script("localStorage.clear()")
        colour = "return getComputedStyle(document.documentElement).backgroundColor"
        before = chrome.execute_script(colour)
        chrome.find_element(By.ID, "theme").click()
        assert until(lambda: chrome.execute_script(colour) != before)
        chrome.get(f"{served.url}workers")
        assert chrome.execute_script(colour) != before  # it is remembered
        for page in PAGES:
            chrome.get(served.url + page)
            reached = chrome.execute_script(
                "return [...document.querySelectorAll('a, button, input:not([type=hidden]), select')].every(e => e.tabIndex >= 0)"
            )
            assert reached
