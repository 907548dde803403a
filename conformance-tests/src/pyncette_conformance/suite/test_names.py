"""Names: any Unicode but NUL, compared byte by byte, in partitions that are compared the same way."""

from collections.abc import Sequence

import pytest

from pyncette.repository import ClaimResult, Key, SupportsPartitions
from pyncette_conformance.builders import LEASE, T0, claim_one, commit, poll, refused, register, registration, settle
from pyncette_conformance.comparison import assert_has
from pyncette_conformance.store import Store, all_rows, scenario
from pyncette_conformance.suite.base import Conformance

__all__ = ["TestNames"]

#: Names that some store or other takes for each other, or chokes on.
FAMILIES = {
    "case": ["Bill", "bill", "BILL", "ß", "ẞ", "ss", "SS", "İ", "i̇", "i", "I", "ı"],
    "accents": ["bill", "bíll", "bìll", "bïll", "Åse", "Aase", "ÅSE"],
    "composed and decomposed": ["\u00e9", "e\u0301", "\u212b", "\u00c5", "A\u030a", "\ufb01", "fi", "\uac00", "\u1100\u1161"],
    "blanks": ["", "a", "a ", "a  ", " a", "a\t", "a\n", "a\r\n", "\u00a0a", "a\u00a0", "a\u200b", "\u200da", "a\ufeff", " ", "  "],
    "separators": [
        ":",
        "::",
        "a:",
        ":a",
        "a:b",
        "a::b",
        "/",
        "a/b",
        "a//b",
        "../a",
        "|",
        "#",
        "a#b",
        ",",
        ";",
        ".",
        "..",
        "a.b",
        "@",
    ],
    "quotes": [
        "'",
        "''",
        '"',
        '""',
        "`",
        "a'b",
        'a"b',
        "a`b",
        "\\",
        "\\\\",
        "a\\b",
        "\\'",
        "\\n",
        "'; DROP TABLE t; --",
        "$$",
        "$1",
    ],
    "patterns": [
        "%",
        "_",
        "a%",
        "a_",
        "ab",
        "*",
        "?",
        "a*",
        "[a]",
        "[^a]",
        "a?",
        "^a",
        "a$",
        "(a)",
        "a+",
        "%s",
        "%(a)s",
        "%%",
        ":a",
        "?1",
    ],
    "braces": ["{", "}", "{}", "{a}", "a{b}c", "{a}{b}", "{{a}}", "{0}", "${a}", "#{a}", "}{", "<a>", "&amp;", "[", "]"],
    "numbers": [
        "0",
        "00",
        "1",
        "1.0",
        "1e0",
        "01",
        "-1",
        "+1",
        "0x1",
        "1_0",
        "NaN",
        "Infinity",
        "null",
        "None",
        "true",
        "True",
        "False",
    ],
    "json": ['{"a":1}', '"a"', "\\u0061", "a", "[]", "\\ud83d", "\u2028", "\u2029"],
    "control characters": [*[chr(code) for code in range(1, 33)], "a\x01b", "\x7f", "\x80", "\x9f", "\x1b[31m"],
    "scripts": [
        "日本語",
        "ｱ",
        "ア",
        "あ",
        "العربية",
        "עברית",
        "ไทย",
        "हिन्दी",
        "ελληνικά",
        "ς",
        "σ",
        "Σ",
        "\u202eabc",
        "\u2067a\u2069",
    ],
    "beyond the basic plane": [
        "\U0001f600",
        "\U0001f601",
        "\U00010000",
        "\U0010ffff",
        "👩‍👩‍👧",
        "👩👩👧",
        "\ufffd",
        "\uffff",
        "\ue000",
    ],
    "longest": [
        "x" * 255,
        "x" * 254,
        "x" * 254 + "y",
        "é" * 255,
        "漢" * 255,
        "\U0001f600" * 250,
        "漢" * 254 + "字",
        "\U0001f600" * 249 + "\U0001f601",
    ],
}


def distinct(names: Sequence[str]) -> Sequence[str]:
    """The names as the contract distinguishes them."""
    assert all(len(name) <= 255 and len(name.encode()) <= 1000 and "\0" not in name for name in names)
    return list(dict.fromkeys(names))


class TestNames(Conformance):
    @pytest.mark.parametrize("family", FAMILIES)
    @scenario()
    async def test_names_come_back_as_they_were_given(self, store: Store, family: str) -> None:
        """I13. From every call that returns them."""
        partition = store.partition()
        names = distinct(FAMILIES[family])
        keys = [Key(partition, name) for name in names]
        await register(store.repository, *keys)
        assert [row and row.key for row in await store.rows(keys)] == keys
        assert sorted(row.key for row in await all_rows(store.repository, partition)) == sorted(keys)
        assert sorted(row.key for row in await all_rows(store.repository, partition, 1)) == sorted(keys)
        named = await poll(store.repository, partition, names=names)
        assert (sorted(claim.key for claim in named.claims), named.missing) == (sorted(keys), [])
        claims = (await poll(store.repository, partition, T0 + LEASE)).claims
        assert sorted(claim.key for claim in claims) == sorted(keys)
        await settle(store.repository, T0 + LEASE, *[commit(claim) for claim in claims])
        assert [row and (row.key, row.locked_until) for row in await store.rows(keys)] == [(key, None) for key in keys]
        assert list(await store.repository.unregister(T0, keys)) == [True] * len(keys)
        assert (await poll(store.repository, partition, names=names)).missing == names

    @pytest.mark.parametrize("family", FAMILIES)
    @scenario()
    async def test_names_are_told_apart_byte_by_byte(self, store: Store, family: str) -> None:
        """I13. Of two names that only look alike, one may be there and the other not."""
        partition = store.partition()
        names = distinct(FAMILIES[family])
        present, absent = names[::2], names[1::2]
        await register(store.repository, *[Key(partition, name) for name in present])
        assert [row is not None for row in await store.rows([Key(partition, name) for name in names])] == [
            name in present for name in names
        ]
        assert await poll(store.repository, partition, names=absent) == ClaimResult([], None, absent)
        assert list(await store.repository.unregister(T0, [Key(partition, name) for name in absent])) == [False] * len(absent)
        # Each has its own row: what is done to one is not done to another.
        await store.repository.register(
            T0, [registration(Key(partition, name), spec=str(number), schedule=str(number)) for number, name in enumerate(present)]
        )
        for number, name in enumerate(present):
            assert (await claim_one(store.repository, Key(partition, name))).spec == str(number)

    @pytest.mark.parametrize("family", [family for family in FAMILIES if family != "longest"])
    @scenario()
    async def test_partitions_are_told_apart_byte_by_byte(self, store: Store, family: str) -> None:
        """I13. A partition's name is as free as a task's."""
        base = store.partition()
        keys = [Key(store.adopt(f"{base}{suffix}"), "task") for suffix in distinct(FAMILIES[family])]
        await store.repository.register(T0, [registration(key, spec=str(number)) for number, key in enumerate(keys)])
        for number, key in enumerate(keys):
            assert [(row.key, row.spec) for row in await all_rows(store.repository, key.partition)] == [(key, str(number))]
            [claim] = (await poll(store.repository, key.partition)).claims
            assert_has(claim, key=key, spec=str(number))
            assert list(await store.repository.unregister(T0, [key])) == [True]

    @pytest.mark.parametrize("character", ["x", "é", "漢", "\U0001f600"], ids=ascii)
    @scenario()
    async def test_long_partitions_are_told_apart_to_their_ends(self, store: Store, character: str) -> None:
        """I13. One has a prefix and a name of core's in it: up to 300 characters, or 1,100 bytes."""
        base = store.partition()
        size = min(300 - len(base), (1100 - len(base)) // len(character.encode()))
        long = base + character * (size - 1)
        partitions = [store.adopt(long + last) for last in ("a", "b", character, "a ", "")]
        keys = [Key(partition, name) for partition in partitions for name in ("task", "x" * 255, "\U0001f600" * 250)]
        await store.repository.register(T0, [registration(key, spec=str(number)) for number, key in enumerate(keys)])
        assert [row and (row.key, row.spec) for row in await store.rows(keys)] == [
            (key, str(number)) for number, key in enumerate(keys)
        ]
        for partition in partitions:
            own = sorted(key for key in keys if key.partition == partition)
            assert sorted(row.key for row in await all_rows(store.repository, partition, 2)) == own
            assert sorted(claim.key for claim in (await poll(store.repository, partition)).claims) == own
        if isinstance(store.repository, SupportsPartitions):
            found = await store.repository.partitions()
            assert sorted(each for each in found if each.startswith(base)) == sorted(partitions)

    @pytest.mark.parametrize("name", ["a\ud83d", "\udc00", "\ude00\ud83d"], ids=ascii)
    @scenario()
    async def test_names_that_can_not_be_encoded_are_refused_or_kept(self, store: Store, name: str) -> None:
        """I10, I13. Half a surrogate pair: one of Pyncette's errors, or a row under this very name, and under no other."""
        good, absent, bad = *store.keys(2), store.key(name)
        replaced = [bad._replace(name=each) for each in ("a?", "?", "a\ufffd", "\ufffd", "a", "", "??", "\ufffd\ufffd")]
        await register(store.repository, good)
        kept = not await refused(register(store.repository, bad))
        listed = await all_rows(store.repository, bad.partition)
        assert [row.key for row in listed] == ([bad] if kept else [])
        await refused(poll(store.repository, bad.partition, names=[name, "another"]))
        await refused(store.repository.get([bad]))
        await refused(store.repository.unregister(T0, [absent, bad]))
        odd = Key(store.partition() + name, "task")
        await refused(register(store.repository, odd))
        await refused(poll(store.repository, odd.partition))
        await refused(store.repository.list(odd.partition, limit=5))
        await refused(store.repository.unregister(T0, [odd]))
        assert list(await store.rows(replaced)) == [None] * len(replaced)
        assert (await claim_one(store.repository, good)).attempt == 1

    @pytest.mark.parametrize("separator", [":", "::", "/", "|", "#", ".", "-", " ", "\\", "{", "}", "%", "\x01", "\x1f", "\n", ","])
    @scenario()
    async def test_a_key_is_its_parts_and_not_their_concatenation(self, store: Store, separator: str) -> None:
        """I13. 'a:' with 'b' is not 'a' with ':b'."""
        base = store.partition()
        pairs = [
            (f"a{separator}", "b"),
            ("a", f"{separator}b"),
            (f"a{separator}b", "b"),
            ("a", f"b{separator}b"),
            ("", f"a{separator}b"),
        ]
        pairs += [(f"a{separator}{separator}", "b"), ("a", f"{separator}{separator}b"), (f"a{separator}", f"{separator}b")]
        keys = [Key(store.adopt(base + partition), name) for partition, name in pairs]
        await store.repository.register(T0, [registration(key, spec=str(number)) for number, key in enumerate(keys)])
        assert [row and (row.key, row.spec) for row in await store.rows(keys)] == [
            (key, str(number)) for number, key in enumerate(keys)
        ]
        for key in keys:
            rows = await all_rows(store.repository, key.partition)
            assert sorted(row.key for row in rows) == sorted(each for each in keys if each.partition == key.partition)
        await store.repository.unregister(T0, keys[:1])
        assert [row is not None for row in await store.rows(keys)] == [False, *[True] * (len(keys) - 1)]

    @scenario()
    async def test_all_names_fit_into_one_partition(self, store: Store) -> None:
        """I13. A name of one family is no other family's, either."""
        partition = store.partition()
        names = distinct([name for family in FAMILIES.values() for name in family])
        await register(store.repository, *[Key(partition, name) for name in names])
        listed = [row.key.name for row in await all_rows(store.repository, partition, 50)]
        assert sorted(listed) == sorted(names)
        claimed = [claim.key.name for claim in (await poll(store.repository, partition, names=names)).claims]
        assert sorted(claimed) == sorted(names)
