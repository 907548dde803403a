"""Take the pictures of docs/dashboard.md: python pyncette-dashboard/tests/screenshots.py [FOLDER]."""

import sys
import tempfile
import time
from pathlib import Path

from walking import ROOT, Served, browser

PAGES = {
    "overview": "",
    "template": "task?name=deliver",
    "instance": "instance?task=deliver&name=order+3",
    "failed": "failed",
    "upcoming": "upcoming",
    "workers": "workers",
    "backfill": "act?do=backfill&task=copy_prices",
}
#: Of which page a picture is kept, how wide and high the window is, and whether it is dark.
KEPT = [
    ("overview", 1280, 900, False),
    ("overview", 1280, 900, True),
    ("template", 1280, 800, False),
    ("instance", 1280, 800, True),
    ("failed", 1280, 700, False),
    ("overview", 390, 844, True),
    ("template", 390, 844, False),
]


def main() -> None:
    everything = "--all" in sys.argv
    arguments = [each for each in sys.argv[1:] if not each.startswith("-")]
    folder = Path(arguments[0]) if arguments else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = (
        [(page, *size, dark) for page in PAGES for size in ((1280, 900), (390, 844)) for dark in (False, True)]
        if everything
        else KEPT
    )
    with tempfile.TemporaryDirectory() as place, Served(f"sqlite:///{place}/shop.db") as served, browser() as chrome:
        chrome.get(served.url)
        time.sleep(6)  # until there is something to see
        for page, width, height, dark in wanted:
            chrome.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
            )
            scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
            chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
            chrome.get(served.url + PAGES[page])
            time.sleep(0.3)
            chrome.save_screenshot(
                str(folder / f"dashboard-{page}-{'phone' if width < 500 else 'wide'}-{'dark' if dark else 'light'}.png")
            )


if __name__ == "__main__":
    main()
