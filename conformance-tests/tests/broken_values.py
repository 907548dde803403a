"""Stores that give back something else than they were given, or in another order: texts, names, times."""

import fnmatch
import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from broken_stores import caught_by
from pyncette.clock import to_microseconds
from pyncette.repository import ClaimResult, Key, Page, Registration, Row
from tiny_store import TinyStore

IN_ORDER = "TestValues::test_rows_are_ready_in_the_order_of_time"
BACKLOG = "TestValues::test_a_backlog_of_centuries_is_claimed_in_the_order_of_time"
LONG_PARTITIONS = "TestNames::test_long_partitions_are_told_apart_to_their_ends"
NAMES = "TestNames::test_names_come_back_as_they_were_given"
TOLD_APART = "TestNames::test_names_are_told_apart_byte_by_byte"
SCHEDULES = "TestValues::test_schedules_are_compared_byte_by_byte"
NO_UNICODE = "TestNames::test_names_that_can_not_be_encoded_are_refused_or_kept"
NO_TEXT = "TestValues::test_what_can_not_be_encoded_is_refused_or_kept"
LONG_TEXTS = "TestValues::test_long_texts_are_kept_whole"


# -- an index that is not in the order of time --


def ordered_by(order: Callable[[datetime], Any]) -> type[TinyStore]:
    class Store(TinyStore):
        def order(self, row: Row) -> object:
            assert row.ready_at is not None
            return order(row.ready_at), row.key.name

    return Store


ORDERS: dict[str, Callable[[datetime], Any]] = {
    "NumbersAsText": lambda at: str(to_microseconds(at)),
    "PaddedNumbersWithASign": lambda at: f"{to_microseconds(at):021}",
    "PaddedForThisCentury": lambda at: f"{to_microseconds(at):016}",
    "UnsignedNumbers": lambda at: to_microseconds(at) % 2**64,
    "Magnitudes": lambda at: abs(to_microseconds(at)),
    "SecondsOf32Bits": lambda at: ((to_microseconds(at) // 10**6 + 2**31) % 2**32, at.microsecond),
    "UnsignedSecondsOf32Bits": lambda at: (to_microseconds(at) // 10**6 % 2**32, at.microsecond),
    "Doubles": lambda at: float(to_microseconds(at)),
    "Seconds": lambda at: to_microseconds(at) // 10**6,
    "SecondsTowardsZero": lambda at: (int(to_microseconds(at) / 10**6), abs(to_microseconds(at)) % 10**6),
    "YearsOfTwoDigits": lambda at: at.strftime("%y-%m-%d %H:%M:%S.%f"),
    "NoFractionWhereThereIsNone": lambda at: at.isoformat().replace("+00:00", "Z"),
    "LittleEndian": lambda at: to_microseconds(at).to_bytes(8, "little", signed=True),
    "TwosComplement": lambda at: to_microseconds(at).to_bytes(8, "big", signed=True),
}
for _name, _order in ORDERS.items():
    _store = ordered_by(_order)
    _store.__name__ = f"OrdersBy{_name}"
    # In a partition of one row after another an index is never wrong about two of them for long.
    caught_by(BACKLOG, *[IN_ORDER] * (_name not in ("Seconds", "Doubles")))(_store)


@caught_by(IN_ORDER)
class TakesNoTimeBefore1970(TinyStore):
    async def claim(self, now: datetime, partition: str, **options: Any) -> ClaimResult:
        return await super().claim(max(now, datetime(1970, 1, 1, tzinfo=UTC)), partition, **options)


# -- texts --


def keeping(field: str, change: Callable[[str], str | None]) -> type[TinyStore]:
    """A store that makes something else of a field when it writes."""

    class Store(TinyStore):
        def write(self, key: Key, row: Row | None) -> None:
            value = row and getattr(row, field)
            super().write(key, row if row is None or value is None else row._replace(**{field: change(value)}))

    return Store


def cut_after(size: int) -> Callable[[str], str]:
    return lambda text: text.encode(errors="surrogatepass")[:size].decode(errors="ignore")


TEXTS: dict[str, tuple[type[TinyStore], str]] = {
    "CutsArgumentsAt64K": (keeping("spec", cut_after(65_535)), LONG_TEXTS),
    "CutsSchedulesAt255": (keeping("schedule", cut_after(255)), LONG_TEXTS),
    "CutsErrorsAt4000": (keeping("error", cut_after(4000)), LONG_TEXTS),
    "KeepsNoEmptySchedule": (keeping("schedule", lambda text: text or None), "TestValues::test_empty_texts_are_not_nothing"),
    "KeepsNoEmptyError": (keeping("error", lambda text: text or None), "TestValues::test_empty_texts_are_not_nothing"),
    "ReplacesWhatCanNotBeEncoded": (keeping("spec", lambda text: text.encode(errors="replace").decode()), NO_TEXT),
    "LetsEncodingErrorsOutOfErrors": (keeping("error", lambda text: text.encode().decode()), NO_TEXT),
    "LetsEncodingErrorsOut": (keeping("schedule", lambda text: text.encode().decode()), NO_TEXT),
    "NormalisesLineEnds": (keeping("spec", lambda text: text.replace("\r\n", "\n")), "TestValues::test_a_spec_is_not_looked_into"),
    "StripsArguments": (keeping("spec", str.strip), "TestValues::test_a_spec_is_not_looked_into"),
    "NormalisesErrors": (
        keeping("error", lambda text: unicodedata.normalize("NFKC", text)),
        "TestValues::test_texts_are_not_looked_into",
    ),
}
for _name, (_store, _test) in TEXTS.items():
    _store.__name__ = _name
    caught_by(_test)(_store)


def comparing(fold: Callable[[str], str]) -> type[TinyStore]:
    """A store that takes schedules for equal that are not."""

    class Store(TinyStore):
        def registered(self, row: Row | None, now: datetime, registration: Registration, force: bool) -> Row:
            if row is not None and not force and fold(row.schedule) == fold(registration.schedule):
                return row._replace(spec=registration.spec)
            return super().registered(row, now, registration, force)

    return Store


FOLDS: dict[str, Callable[[str], str]] = {
    "WithoutCase": str.casefold,
    "WithoutTrailingBlanks": lambda text: text.rstrip(" "),
    "Normalised": lambda text: unicodedata.normalize("NFC", text),
    "WithoutAccents": lambda text: "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)),
    "AsNumbers": lambda text: str(float(text)) if re.fullmatch(r"[0-9.]+", text) else text,
}
for _name, _fold in FOLDS.items():
    _store = comparing(_fold)
    _store.__name__ = f"ComparesSchedules{_name}"
    caught_by(SCHEDULES)(_store)


# -- names and partitions --


def named(change: Callable[[Key], Key]) -> type[TinyStore]:
    """A store that keeps rows under other keys than it was given."""

    class Store(TinyStore):
        def read(self, key: Key) -> Row | None:
            row = super().read(change(key))
            return row and row._replace(key=key)

        def write(self, key: Key, row: Row | None) -> None:
            super().write(change(key), row and row._replace(key=change(key)))

        def of(self, partition: str) -> list[Row]:
            return super().of(change(Key(partition, "")).partition)

    return Store


def name(change: Callable[[str], str]) -> Callable[[Key], Key]:
    return lambda key: Key(key.partition, change(key.name))


def partition(change: Callable[[str], str]) -> Callable[[Key], Key]:
    return lambda key: Key(change(key.partition), key.name)


KEYS: dict[str, tuple[Callable[[Key], Key], str]] = {
    "CutsPartitionsAt255": (partition(lambda text: text[:255]), LONG_PARTITIONS),
    "CutsPartitionsAt1000Bytes": (partition(cut_after(1000)), LONG_PARTITIONS),
    "CutsNamesAt254": (name(lambda text: text[:254]), NAMES),
    "CutsNamesAt255Bytes": (name(cut_after(255)), NAMES),
    "CutsNamesBefore1000Bytes": (name(cut_after(999)), NAMES),
    "NormalisesNames": (name(lambda text: unicodedata.normalize("NFC", text)), TOLD_APART),
    "LowersNames": (name(str.lower), TOLD_APART),
    "UnescapesNames": (name(lambda text: text.replace("\\\\", "\\")), TOLD_APART),
    "EndsNamesAtALineBreak": (name(lambda text: text.split("\n")[0]), TOLD_APART),
    "TakesNamesForNumbers": (name(lambda text: str(int(text)) if re.fullmatch("[0-9]+", text) else text), TOLD_APART),
    "LowersPartitions": (partition(str.lower), "TestNames::test_partitions_are_told_apart_byte_by_byte"),
    "LetsEncodingErrorsOutOfNames": (name(lambda text: text.encode().decode()), NO_UNICODE),
    "LetsEncodingErrorsOutOfPartitions": (partition(lambda text: text.encode().decode()), NO_UNICODE),
    "ReplacesNamesThatCanNotBeEncoded": (name(lambda text: text.encode(errors="replace").decode()), NO_UNICODE),
    "DropsWhatCanNotBeEncoded": (name(lambda text: text.encode(errors="ignore").decode()), NO_UNICODE),
}
for _name, (_change, _test) in KEYS.items():
    _store = named(_change)
    _store.__name__ = _name
    caught_by(_test)(_store)


@caught_by(NAMES)
class ListsNoEmptyName(TinyStore):
    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        return await super().list(partition, limit=limit, token=token or "")


@caught_by(NAMES)
class BeginsAnewAfterTheEmptyName(TinyStore):
    """A token that is an empty text is treated as none."""

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        return await super().list(partition, limit=limit, token=token or None)


@caught_by(NAMES)
class ClaimsNoEmptyName(TinyStore):
    async def claim(self, now: datetime, partition: str, *, names: Sequence[str] | None = None, **options: Any) -> ClaimResult:
        return await super().claim(now, partition, names=names and [name for name in names if name], **options)


@caught_by(NAMES)
class TokensWithoutBlanks(TinyStore):
    """As a query string or a header leaves them."""

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        return await super().list(partition, limit=limit, token=token and token.strip())


@caught_by(NAMES)
class TokensOfWords(TinyStore):
    """Cuts a token off at what separates its parts."""

    async def list(self, partition: str, *, limit: int, token: str | None = None) -> Page:
        return await super().list(partition, limit=limit, token=token and token.split(":")[0])


def matching(matches: Callable[[str, str], bool]) -> type[TinyStore]:
    """A store that takes names for patterns."""

    class Store(TinyStore):
        def read(self, key: Key) -> Row | None:
            return next((row for row in self.of(key.partition) if matches(row.key.name, key.name)), None)

    return Store


def like(text: str, pattern: str) -> bool:
    parts = {"%": ".*", "_": "."}
    return re.fullmatch("".join(parts.get(each) or re.escape(each) for each in pattern), text, re.DOTALL) is not None


for _name, _matches in {"Like": like, "Glob": fnmatch.fnmatchcase}.items():
    _store = matching(_matches)
    _store.__name__ = f"SeeksNames{_name}"
    caught_by(TOLD_APART)(_store)
