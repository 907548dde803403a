"""A browser, and an application to be walked through with it."""

import asyncio
import contextlib
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import uvicorn
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By

from pyncette import FailureMode, Instance, Pyncette
from pyncette.dashboard import Dashboard

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from browser import browser, resize  # noqa: E402, F401 - for those who import this

HOSTILE = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "user\u202egnp.exe",
    "{{ 7 * 7 }}",
    "a/b?c=d&e#f%00%2F",
    "x" * 255,
    "\u05e9\u05dc\u05d5\u05dd \u2066left\u2069",
    "'; DROP TABLE tasks; --",
]


def shop(url: str) -> Pyncette:
    """Something of everything."""
    app = Pyncette(url, poll_interval=timedelta(milliseconds=100))

    @app.task(schedule="0 2 * * *", timezone="Europe/Berlin")
    async def copy_prices(context): ...

    @app.task(interval=timedelta(seconds=1))
    async def refresh_stock(context): ...

    @app.task(schedule="30 9 * * 1-5", timezone="Europe/London")
    async def weekly_report(context): ...

    @app.dynamic_task(max_attempts=1, history=timedelta(days=1))
    async def deliver(context):
        if context.args.get("lost"):
            raise ConnectionError(f"no route to the warehouse <b>for {context.name}</b>")

    @app.dynamic_task(max_attempts=5, failure_mode=FailureMode.UNLOCK, retry_delay=timedelta(hours=1), history=timedelta(days=1))
    async def invoice(context):
        raise TimeoutError("the bank did not answer")

    @app.partitioned_task(partition_count=4)
    async def remind(context): ...

    return app


async def fill(app_context) -> None:
    task = {each.name: each for each in app_context.tasks}
    day = timedelta(days=1)
    orders = [
        Instance(name=f"order {number}", interval=timedelta(minutes=17 * number + 30), args={"to": "ada"}) for number in range(70)
    ]
    lost = [Instance(name=f"lost {number}", execute_at=app_context.clock.now(), args={"lost": True}) for number in range(4)]
    await app_context.schedule_tasks(
        task["deliver"], [*orders, *lost, *(Instance(name=each, interval=day) for each in HOSTILE)], by="ann"
    )
    await app_context.schedule_tasks(
        task["invoice"], [Instance(name=f"invoice {number}", execute_at=app_context.clock.now()) for number in range(3)]
    )
    await app_context.schedule_tasks(
        task["remind"], [Instance(name=f"user {number}", schedule=f"{number % 60} {number % 24} * * *") for number in range(200)]
    )
    await app_context.pause_task(task["deliver"], "order 3", note="the address is wrong", by="ann")


async def leave_behind(url: str) -> None:
    """Rows that no task of the shop declares."""
    former = Pyncette(url)

    @former.dynamic_task(name="<i>former</i>")
    async def gone(context): ...

    async with former.client() as client:
        await client.schedule_tasks(gone, [Instance(name=f"old {number}", interval=timedelta(days=1)) for number in range(3)])


#: Presses what an XPath finds, if it can be seen and nothing covers it. A single script, since a page that updates itself between finding
#: an element and clicking on its place would move another one there.
_PRESS = """
const found = document.evaluate(arguments[0], document, null, XPathResult.FIRST_ORDERED_NODE_TYPE, null).singleNodeValue;
if (!found) return false;
found.scrollIntoView({block: "center", behavior: "instant"});
const {x, y, width, height} = found.getBoundingClientRect();
if (!found.contains(document.elementFromPoint(x + width / 2, y + height / 2))) return false;
found.click();
return true;
"""


class Served:
    """An application that runs, and its dashboard, in a thread of their own."""

    def __init__(self, url: str, **options) -> None:
        self.app, self.store, self.options = shop(url), url, options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._ready = threading.Event()
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.dashboard = Dashboard(self.app, user="ann@ops-1", show_arguments=True, **self.options)
        server = uvicorn.Server(uvicorn.Config(self.dashboard, port=self.port, log_level="error", timeout_graceful_shutdown=1))
        server.capture_signals = contextlib.nullcontext  # those of the tests
        async with self.app.create() as self.context:
            await fill(self.context)
            await leave_behind(self.store)
            running = asyncio.create_task(self.context.run())
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            self._ready.set()
            await self._end.wait()
            server.should_exit = True
            await serving
            self.context.shutdown()
            await running

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(180)
        return self

    def __exit__(self, *error) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(180)

    def ask(self, call):
        """What a coroutine of the application's own context gives."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(180)

    @staticmethod
    def query(name):
        """How a link to the page of that instance ends."""
        return urlencode({"name": name}, errors="surrogatepass")

    def get(self, task, name=None):
        return self.ask(self.context.get_task(next(each for each in self.app.tasks if each.name == task), name))


class Viewer:
    """Somebody who looks at a dashboard in a browser."""

    def __init__(self, chrome, served: Served) -> None:
        self.chrome, self.served = chrome, served
        #: What was pressed, of what changes something.
        self.pressed: set[str] = set()

    def go(self, path: str) -> None:
        self.chrome.get(self.served.url + path)

    @property
    def text(self) -> str:
        return self.chrome.execute_script("return document.body.innerText")

    def sees(self, *texts: str) -> None:
        until(lambda: all(each in self.text for each in texts), lambda: f"{texts} in {self.text}")

    def find(self, css: str, use=lambda element: element):
        """What ``use`` gives of the element, which a page that is shown afresh replaces at any moment."""
        return until(lambda: [use(self.chrome.find_element(By.CSS_SELECTOR, css))], lambda: f"{css} in {self.text}")[0]

    def follow(self, label: str, within: str = "main") -> None:
        """Press the link or button of that label."""
        path = f"//{within}//*[self::a or self::button][.='{label}']"
        until(lambda: self.chrome.execute_script(_PRESS, path), lambda: f"{label} in {self.text}")

    def fill(self, within: str, **fields: str) -> None:
        for name, value in fields.items():
            script = "arguments[0].value = arguments[1]"
            self.find(f"{within} [name={name}]", lambda field, value=value: self.chrome.execute_script(script, field, value))

    def ask(self, label: str, **fields: str) -> None:
        """Press the button of that label, and fill in what is asked in the dialog."""
        self.follow(label)
        self.find("dialog[open] form")
        self.fill("dialog[open]", **fields)

    def confirm(self) -> None:
        self.pressed.add(self.find("dialog[open] h1", lambda title: title.text))
        self.find("dialog[open] button.primary", lambda button: button.click())

    def act(self, label: str, **fields: str) -> None:
        self.ask(label, **fields)
        self.confirm()

    def job(self, state: str = "done") -> None:
        """Wait until the job that was begun has ended, or is in that state."""
        self.find(f"#job[data-state={state}]")


def until(condition, told=lambda: "it", seconds: float = 180.0):
    """What ``condition`` gives, once that is something."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except WebDriverException:
            pass
        assert time.monotonic() < deadline, f"did not come about: {told()}"
        time.sleep(0.02)
