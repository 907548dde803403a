"""Suggestions for misspelled and unknown time zones."""

import difflib
import os
import re
import zoneinfo
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import resources

__all__ = ["advice"]

# Abbreviations are not names of zones, because several zones share most of them. These are the zones with the largest population.
_ABBREVIATIONS = {
    "ACDT": "Australia/Adelaide",
    "ACST": "Australia/Adelaide",
    "AEDT": "Australia/Sydney",
    "AEST": "Australia/Sydney",
    "AKDT": "America/Anchorage",
    "AKST": "America/Anchorage",
    "ART": "America/Argentina/Buenos_Aires",
    "AST": "America/Halifax",
    "ADT": "America/Halifax",
    "AWST": "Australia/Perth",
    "BRT": "America/Sao_Paulo",
    "BST": "Europe/London",
    "CAT": "Africa/Maputo",
    "CDT": "America/Chicago",
    "CEST": "Europe/Berlin",
    "CET": "Europe/Berlin",
    "CST": "America/Chicago",
    "EAT": "Africa/Nairobi",
    "EDT": "America/New_York",
    "EEST": "Europe/Athens",
    "EET": "Europe/Athens",
    "EST": "America/New_York",
    "ET": "America/New_York",
    "HKT": "Asia/Hong_Kong",
    "HST": "Pacific/Honolulu",
    "ICT": "Asia/Bangkok",
    "IST": "Asia/Kolkata",
    "JST": "Asia/Tokyo",
    "KST": "Asia/Seoul",
    "MDT": "America/Denver",
    "MESZ": "Europe/Berlin",
    "MEZ": "Europe/Berlin",
    "MSK": "Europe/Moscow",
    "MST": "America/Denver",
    "NDT": "America/St_Johns",
    "NST": "America/St_Johns",
    "NZDT": "Pacific/Auckland",
    "NZST": "Pacific/Auckland",
    "PDT": "America/Los_Angeles",
    "PKT": "Asia/Karachi",
    "PST": "America/Los_Angeles",
    "PT": "America/Los_Angeles",
    "SAST": "Africa/Johannesburg",
    "SGT": "Asia/Singapore",
    "UT": "UTC",
    "WAT": "Africa/Lagos",
    "WEST": "Europe/Lisbon",
    "WET": "Europe/Lisbon",
    "WIB": "Asia/Jakarta",
    "Z": "UTC",
    # names on Windows
    "AUS EASTERN STANDARD TIME": "Australia/Sydney",
    "CENTRAL EUROPE STANDARD TIME": "Europe/Budapest",
    "CENTRAL STANDARD TIME": "America/Chicago",
    "CHINA STANDARD TIME": "Asia/Shanghai",
    "E. SOUTH AMERICA STANDARD TIME": "America/Sao_Paulo",
    "EASTERN STANDARD TIME": "America/New_York",
    "GMT STANDARD TIME": "Europe/London",
    "INDIA STANDARD TIME": "Asia/Kolkata",
    "MOUNTAIN STANDARD TIME": "America/Denver",
    "PACIFIC STANDARD TIME": "America/Los_Angeles",
    "ROMANCE STANDARD TIME": "Europe/Paris",
    "TOKYO STANDARD TIME": "Asia/Tokyo",
    "W. EUROPE STANDARD TIME": "Europe/Berlin",
}

_OFFSET = re.compile(r"(?:UTC?|GMT|Z)? *([-+\u2212]) *(\d{1,2})(?:[:.]?([0-5]\d))? *", re.ASCII | re.IGNORECASE)


def advice(name: str, exists: Callable[[str], bool]) -> str:
    """The end of a message about an unknown time zone: what to write instead.

    :param exists: whether a zone of a given name is available here.
    """
    meant = _meant(" ".join(name.split()))
    if meant is not None and exists(meant):
        return f": did you mean {meant!r}?"
    if not _cities():
        return ": no time zone database is installed here; install one with: pip install tzdata"
    return ": write the name of a zone such as 'Europe/London', or an offset such as 'UTC+2'"


def _meant(name: str) -> str | None:
    if name.upper() in _ABBREVIATIONS:
        return _ABBREVIATIONS[name.upper()]
    if (offset := _OFFSET.fullmatch(name)) is not None:
        sign = "+" if offset[1] == "+" else "-"
        return f"UTC{sign}{int(offset[2])}" + (f":{offset[3]}" if int(offset[3] or 0) else "")
    # Compare places, not whole names: the prefix "Europe/" would make any two names of a region similar.
    *region, city = name.lower().replace(" ", "_").split("/")
    close = difflib.get_close_matches(city, _cities(), n=1, cutoff=0.75)
    if not close:
        return None
    return max(_cities()[close[0]], key=lambda zone: zone.lower().split("/")[:-1] == region)


@lru_cache(maxsize=1)
def _cities() -> dict[str, list[str]]:
    """The zones of the database by their last part in lower case; for each, the shortest names first."""
    cities: dict[str, list[str]] = {}
    for zone in sorted(_zones(), key=lambda zone: (zone.count("/"), zone)):
        cities.setdefault(zone.rpartition("/")[2].lower(), []).append(zone)
    return cities


def _zones() -> set[str]:
    # zoneinfo.available_timezones() opens every file, and would block the event loop meanwhile.
    zones = set()
    for root in zoneinfo.TZPATH:
        for folder, _, files in os.walk(root):
            region = os.path.relpath(folder, root).replace(os.sep, "/")
            zones |= {file if region == "." else f"{region}/{file}" for file in files}
    with suppress(ImportError, OSError):
        zones |= set(resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())
    return {zone for zone in zones if zone[0].isupper() and "." not in zone}
