"""A real browser for tests, without a window."""

import contextlib
from collections.abc import Iterator

import servers
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_OPTIONS = ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "force-color-profile=srgb", "hide-scrollbars")


@contextlib.contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium, whose console can be read with ``get_log("browser")``."""
    binary, driver, environment = servers.chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for each in _OPTIONS:
        options.add_argument(f"--{each}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver, env=dict(environment)))
    try:
        yield found
    finally:
        found.quit()


def resize(chrome: webdriver.Chrome, width: int, height: int, *, dark: bool = False) -> None:
    """Have the window that size, as a telephone's if it is narrow, on a system that prefers light or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
