"""From a URL, or a factory and its options, to a store: what is found, what is converted, and what each mistake is called."""

import asyncio
import contextlib
import functools
import sys
import traceback
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyncette import ConfigurationError, Pyncette, PyncetteError
from pyncette.backends import BackendURL, did_you_mean, from_factory, from_url, looking
from pyncette.errors import BackendImportError, BackendNotInstalledError, StoreMissingError, UnknownBackendError
from pyncette.memory import MemoryRepository, memory_repository
from pyncette.sqlite import sqlite_repository
from pyncette.store.urls import load

if TYPE_CHECKING:
    from nowhere import Something

PASSWORD = "correct horse/battery:staple?"
QUOTED = "correct%20horse%2Fbattery%3Astaple%3F"


def error_of(call, kind=ConfigurationError):
    """The message of what it raises: of exactly that kind, and one line."""
    with pytest.raises(PyncetteError) as info:
        call()
    assert type(info.value) is kind
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution, in a folder of its own: its entry points, and perhaps a module."""

    def install(distribution, entry_points, *, module=None, code="", **options):
        folder = tmp_path / distribution
        info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = "".join(f"{scheme} = {value}\n" for scheme, value in entry_points.items())
        (info / "entry_points.txt").write_text(f"[pyncette.backends]\n{lines}")
        if module is not None:
            (folder / f"{module}.py").write_text(code)
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(folder)

    before = set(sys.modules)
    load.cache_clear()
    yield install
    load.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


WORKING = """
import contextlib
from datetime import timedelta
from pyncette.backends import Backend
from pyncette.memory import MemoryRepository

opened = []

@contextlib.asynccontextmanager
async def factory(*, fake_host: str = "", fake_text: str = "", fake_number: int = 0, fake_ratio: float = 0.0, fake_flag: bool = False,
                  fake_wait: timedelta = timedelta(seconds=1), fake_maybe: float | None = None, fake_count: None | int = None,
                  fake_password: str | None = None):
    opened.append(dict(host=fake_host, text=fake_text, number=fake_number, ratio=fake_ratio, flag=fake_flag, wait=fake_wait,
                       maybe=fake_maybe, count=fake_count, password=fake_password))
    yield MemoryRepository()

def from_url(url):
    return {"fake_host": f"{url.hostname()}:{url.port(1234)}", "fake_password": url.password}

backend = Backend(contract_version=1, factory=factory, prefix="fake_", from_url=from_url)
"""


@pytest.fixture
def fake(install):
    """A backend that works, for ``fake://`` and ``fake+tls://``. Gives what it was opened with."""
    install(
        "pyncette-fake", {"fake": "fake_backend:backend", "fake+tls": "fake_backend:backend"}, module="fake_backend", code=WORKING
    )

    def opened(url):
        opening = from_url(url)

        async def main():
            async with opening() as repository:
                assert isinstance(repository, MemoryRepository)

        asyncio.run(main())
        return sys.modules["fake_backend"].opened[-1]

    return opened


# --- finding a backend --------------------------------------------------------------------------------------------------


def test_an_installed_distribution_serves_its_schemes(fake):
    assert fake("fake://example.org")["host"] == "example.org:1234"
    assert fake("fake+tls://example.org:99")["host"] == "example.org:99"
    assert fake("FAKE://example.org")["host"] == "example.org:1234", "schemes know no case"


def test_nothing_of_it_is_imported_before_its_scheme_is_used(fake):
    Pyncette("memory://")
    assert "fake_backend" not in sys.modules
    Pyncette("fake://host")
    assert "fake_backend" in sys.modules


def test_the_backends_of_core_need_no_other_package():
    from_url("memory://")
    from_url("sqlite:///x.db")


def test_a_scheme_that_begins_like_another_is_not_that(install):
    install(
        "pyncette-fake", {"faker": "fake_backend:backend", "fake+tls": "fake_backend:backend"}, module="fake_backend", code=WORKING
    )
    error_of(lambda: Pyncette("fake://host"), UnknownBackendError)


def test_an_unknown_scheme_lists_those_that_are_known(fake):
    message = error_of(lambda: Pyncette("fax://host"), UnknownBackendError)
    assert "fax://" in message
    for scheme in ("fake", "memory", "sqlite", "redis", "postgresql", "mysql", "mariadb", "dynamodb"):
        assert scheme in message
    assert "did you mean 'postgresql'?" in error_of(lambda: Pyncette("postgressql://host"), UnknownBackendError)


@pytest.mark.parametrize(
    ("scheme", "package"),
    [
        ("redis", "pyncette-redis"),
        ("rediss", "pyncette-redis"),
        ("redis+cluster", "pyncette-redis"),
        ("rediss+cluster", "pyncette-redis"),
        ("redis+sentinel", "pyncette-redis"),
        ("postgres", "pyncette-postgres"),
        ("postgresql", "pyncette-postgres"),
        ("mysql", "pyncette-mysql"),
        ("mariadb", "pyncette-mysql"),
        ("dynamodb", "pyncette-dynamodb"),
    ],
)
def test_a_known_scheme_without_its_package_names_the_command_that_installs_it(monkeypatch, scheme, package):
    only_core = lambda **kwargs: [entry for entry in original(**kwargs) if entry.value.startswith("pyncette.memory")]
    import importlib.metadata

    original = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", only_core)
    load.cache_clear()
    message = error_of(lambda: Pyncette(f"{scheme}://host/0"), BackendNotInstalledError)
    assert f"pip install {package}" in message
    assert f"{scheme}://" in message
    assert issubclass(BackendNotInstalledError, ImportError)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nonexistent_driver", ["ModuleNotFoundError", "nonexistent_driver"]),
        ("raise RuntimeError('first line\\nsecond line')", ["RuntimeError", "first line second line"]),
        ("backend = ", ["SyntaxError"]),
        ("other = 1", ["AttributeError", "backend"]),
    ],
)
def test_a_package_that_fails_to_import_is_another_error_than_a_missing_one(install, code, words):
    install("pyncette-fake", {"fake": "fake_broken:backend"}, module="fake_broken", code=code)
    message = error_of(lambda: Pyncette("fake://host"), BackendImportError)
    assert "pyncette-fake" in message
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    "code", ["import sys; sys.exit(0)", "raise SystemExit", "raise GeneratorExit", "class Odd(BaseException): pass\nraise Odd"]
)
def test_a_package_that_ends_the_process_when_it_is_imported_is_an_error(install, code):
    install("pyncette-fake", {"fake": "fake_leaving:backend"}, module="fake_leaving", code=code)
    assert "pyncette-fake" in error_of(lambda: Pyncette("fake://host"), BackendImportError)


def test_an_import_error_keeps_its_cause(install):
    install("pyncette-fake", {"fake": "fake_broken:backend"}, module="fake_broken", code="import nonexistent_driver")
    with pytest.raises(BackendImportError) as info:
        Pyncette("fake://host")
    assert isinstance(info.value.__cause__, ModuleNotFoundError)


def test_a_scheme_that_two_distributions_offer_is_refused_with_both_names(install, fake):
    install("another-fake", {"fake": "fake_backend:backend"})
    message = error_of(lambda: Pyncette("fake://host"))
    assert "another-fake and pyncette-fake" in message
    assert "uninstall" in message
    assert from_url("fake+tls://host"), "the other scheme has one owner"


def test_an_entry_point_that_is_no_backend_is_refused(install):
    install("pyncette-fake", {"fake": "fake_old:backend"}, module="fake_old", code="def backend(): pass")
    message = error_of(lambda: Pyncette("fake://host"), BackendImportError)
    assert "pyncette-fake" in message
    assert "fake_old:backend" in message


@pytest.mark.parametrize(
    ("stated", "said", "older"),
    [
        ("0", "version 0", "pyncette-fake"),
        ("2", "version 2", "pyncette-core"),
        ("(2, 3)", "version 2 and 3", "pyncette-core"),
        ("{0}", "version 0", "pyncette-fake"),
        ("()", "version none", "pyncette-fake"),
    ],
)
def test_a_backend_for_other_versions_of_the_contract_is_refused(install, stated, said, older):
    code = WORKING.replace("contract_version=1", f"contract_version={stated}")
    install("pyncette-fake", {"fake": "fake_versioned:backend"}, module="fake_versioned", code=code)
    assert error_of(lambda: Pyncette("fake://host"), BackendImportError).endswith(
        f"pyncette-fake implements {said} of the repository contract, this pyncette-core has 1; upgrade {older}"
    )


@pytest.mark.parametrize("stated", ["1", "(1, 2)", "range(1, 3)", "{0, 1}"])
def test_a_backend_may_know_several_versions_of_the_contract(install, stated):
    code = WORKING.replace("contract_version=1", f"contract_version={stated}")
    install("pyncette-fake", {"fake": "fake_several:backend"}, module="fake_several", code=code)
    Pyncette("fake://host")


# --- only looking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layouts", ["compare", "ignore"])
@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite:///{}?skip_table_create=no"])
def test_who_only_looks_creates_nothing_and_is_told_that_there_is_nothing(tmp_path, url, layouts):
    path = tmp_path / "tasks.db"
    app = Pyncette(url.format(path))

    @app.partitioned_task(partition_count=4)
    async def ship(context): ...

    async def look():
        async with app.create(layouts=layouts, looking=True) as app_context:
            return list(await app_context.repository.partitions())

    with pytest.raises(StoreMissingError, match="There is no SQLite database .* yet"):
        asyncio.run(look())
    assert not path.exists()

    async def create():
        async with app.create():
            pass

    asyncio.run(create())
    before = path.read_bytes()
    assert len(asyncio.run(look())) == 1
    assert path.read_bytes() == before


def test_who_only_looks_opens_a_store_that_creates_nothing_as_ever(fake):
    opener = from_url("fake://host")
    assert looking(opener) is opener


# --- options in a URL ---------------------------------------------------------------------------------------------------


def test_options_of_a_driver_are_its_backends_business(install):
    code = WORKING.replace('prefix="fake_"', 'prefix="fake_", url_options={"sslmode"}').replace(
        "return {", "return {\"fake_text\": url.unparse(options={'sslmode'}), "
    )
    install("pyncette-fake", {"fake": "driver_backend:backend"}, module="driver_backend", code=code)
    opener = from_url("fake://u:p@host/db?sslmode=a%20b&number=3")
    assert (opener.keywords["fake_text"], opener.keywords["fake_number"]) == ("fake://u:p@host/db?sslmode=a%20b", 3)
    assert "did you mean 'sslmode'?" in error_of(lambda: from_url("fake://host?ssl_mode=1"))


def test_options_that_no_text_can_stand_for_are_for_code(install):
    code = "import ssl\n" + WORKING.replace("fake_host: str", "fake_tls: ssl.SSLContext | None = None, fake_host: str")
    install("pyncette-fake", {"fake": "context_backend:backend"}, module="context_backend", code=code)
    assert "Unknown option 'tls'" in error_of(lambda: from_url("fake://host?tls=yes"))


@pytest.mark.parametrize(
    ("query", "option", "value"),
    [
        ("text=a%20b%26c", "text", "a b&c"),
        ("text=", "text", ""),
        ("text=a=b", "text", "a=b"),
        ("text=a@b", "text", "a@b"),
        ("number=12", "number", 12),
        ("number=-1", "number", -1),
        ("ratio=0.25", "ratio", 0.25),
        ("ratio=3", "ratio", 3.0),
        ("flag=true", "flag", True),
        ("flag=1", "flag", True),
        ("flag=Yes", "flag", True),
        ("flag=false", "flag", False),
        ("flag=0", "flag", False),
        ("flag=No", "flag", False),
        ("wait=2.5", "wait", timedelta(seconds=2.5)),
        ("maybe=1.5", "maybe", 1.5),
        ("count=3", "count", 3),
    ],
)
def test_options_have_the_type_that_the_backend_states(fake, query, option, value):
    given = fake(f"fake://host/path?{query}")
    assert given[option] == value
    assert type(given[option]) is type(value)


def test_options_that_are_not_given_keep_their_defaults(fake):
    given = fake("fake://host?number=1")
    assert (given["wait"], given["maybe"], given["flag"]) == (timedelta(seconds=1), None, False)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("number=many", ["number='many'", "a number"]),
        ("number=1.5", ["number='1.5'", "a number"]),
        ("ratio=x", ["ratio='x'", "a number"]),
        ("flag=maybe", ["flag='maybe'", "true or false"]),
        ("flag=", ["flag=''", "true or false"]),
        ("wait=soon", ["wait='soon'", "seconds"]),
        ("wait=nan", ["wait='nan'", "seconds"]),
        ("wait=1e300", ["wait='1e300'", "seconds"]),
        ("maybe=x", ["maybe='x'", "a number"]),
        ("numbr=1", ["'numbr'", "; did you mean 'number'?"]),
        ("text_mode=1", ["'text_mode'", "; did you mean 'text'?"]),
        ("zzz=1", ["'zzz'", "; use one of count, flag, ", "number", "ratio", "text", "wait"]),
        ("host=h", ["'host'"]),
        ("password=x", ["'password'"]),
        ("number=1&number=2", ["twice"]),
    ],
)
def test_a_wrong_option_is_refused_when_the_application_is_made(fake, query, words):
    message = error_of(lambda: Pyncette(f"fake://user:{QUOTED}@host?{query}"))
    assert all(word in message for word in words)
    assert "horse" not in message


def test_an_option_that_a_url_lacks_is_named(install):
    code = WORKING.replace('fake_text: str = ""', "fake_text: str")
    install("pyncette-fake", {"fake": "fake_strict:backend"}, module="fake_strict", code=code)
    assert "'fake_text'" in error_of(lambda: Pyncette("fake://host"))


# --- URLs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("redis://localhost/0", ("redis", "localhost", "/0", None, None)),
        ("redis://", ("redis", "", "", None, None)),
        ("redis://u:p@h:1/0", ("redis", "h:1", "/0", "u", "p")),
        ("redis://:p@h", ("redis", "h", "", None, "p")),
        ("redis://u@h", ("redis", "h", "", "u", None)),
        ("redis://u:@h", ("redis", "h", "", "u", "")),
        ("redis://u:a:b@h", ("redis", "h", "", "u", "a:b")),
        ("redis://u:p@ss@h", ("redis", "h", "", "u", "p@ss")),
        ("redis://u:p#1@h/0", ("redis", "h", "/0", "u", "p#1")),
        (f"redis://u:{QUOTED}@h", ("redis", "h", "", "u", PASSWORD)),
        ("redis+sentinel://a:1,b:2,c/main", ("redis+sentinel", "a:1,b:2,c", "/main", None, None)),
        ("redis+sentinel://a:1,b:2/main?name=x@y", ("redis+sentinel", "a:1,b:2", "/main", None, None)),
        ("postgresql://[::1]:5432/db?name=x@y", ("postgresql", "[::1]:5432", "/db", None, None)),
        ("sqlite:///a%20b%3F.db", ("sqlite", "", "/a b?.db", None, None)),
        ("sqlite:////home/me@work/x.db", ("sqlite", "", "//home/me@work/x.db", None, None)),
        ("MySQL://h", ("mysql", "h", "", None, None)),
    ],
)
def test_a_url_is_parsed_once_into_its_parts(url, parts):
    parsed = BackendURL.parse(url)
    assert (parsed.scheme, parsed.hosts, parsed.path, parsed.username, parsed.password) == parts


def test_the_parts_of_a_url_cannot_be_changed():
    with pytest.raises(AttributeError):
        BackendURL.parse("redis://h").password = "x"


@pytest.mark.parametrize(
    ("hosts", "hostname", "port"),
    [
        ("", "localhost", 6379),
        ("h", "h", 6379),
        ("h:1", "h", 1),
        ("[::1]", "::1", 6379),
        ("[::1]:65535", "::1", 65535),
        (":7", "localhost", 7),
    ],
)
def test_the_only_host_and_its_port(hosts, hostname, port):
    url = BackendURL.parse(f"redis://user:p@{hosts}/0")
    assert (url.hostname(), url.port(6379)) == (hostname, port)


@pytest.mark.parametrize("hosts", ["h:x", "h:65536", "h:-1", "a:1,b:2:3", "[::1", "::1", "a:b", "h:1 "])
def test_a_wrong_port_is_refused_and_neither_it_nor_the_password_is_shown(hosts):
    message = error_of(lambda: BackendURL.parse(f"redis://user:{QUOTED}@{hosts}/0"))
    assert "HOST:PORT" in message
    assert hosts not in message
    assert "horse" not in message


def test_one_host_is_not_several():
    url = BackendURL.parse(f"redis://user:{QUOTED}@a:1,b:2/0")
    for method in (lambda: url.port(6379), url.hostname):
        message = error_of(method)
        assert "'a:1,b:2'" in message
        assert "horse" not in message


@pytest.mark.parametrize("known", ["sslmode", "ssl_mode", "tls", "use_tls"])
def test_an_option_by_another_drivers_name_is_told_ours(install, known):
    code = WORKING.replace('fake_text: str = ""', "fake_ssl: bool = False").replace("fake_text", "fake_ssl")
    install("pyncette-fake", {"fake": "fake_secure:backend"}, module="fake_secure", code=code)
    assert error_of(lambda: Pyncette(f"fake://host?{known}=require")) == (
        f"Unknown option {known!r} in the URL fake://host; did you mean 'ssl'?"
    )


@pytest.mark.parametrize(
    "url", ["", "pyncette.db", "redis", "redis:", "redis:/host", "://host", f"user:{QUOTED}@host", "redis:/u:horse@h"]
)
def test_what_is_no_url_is_refused(url):
    message = error_of(lambda: Pyncette(url))
    assert "sqlite:///" in message
    assert "horse" not in message


@pytest.mark.parametrize(
    "url",
    [
        "fake://user:corr/horse@host/0",
        "fake://user:corr?horse@host/0",
        "fake://user:corr?horse=1@host/0",
        "fake://user:12?horse@host/0",
        "fake://user:12/horse@host/0",
        "fake://user:c@rr/horse@host",
        "fake://user:c@rr?horse@host",
        "fake://corr/horse@host",
        "fake://user:corr?a=horse@host",
    ],
)
def test_credentials_that_are_not_quoted_are_refused_without_being_shown(fake, url):
    message = error_of(lambda: Pyncette(url))
    assert "%2F" in message
    for secret in ("horse", "corr", "c@rr", "rr", ":12"):
        assert secret not in message


WRONG_URLS = [
    "fax://{}@host/0",
    "redis://{}@host/0?colour=red",  # wrong whether or not its package is there
    "fake://{}@host:port/0",
    "fake://{}@host/0?colour=red",
    "fake://{}@host/0?number=many",
    "fake://{}@host/0?number=1&number=2",
    "sqlite://{}@host/x.db",
    "sqlite:///{}@host/x.db?colour=red",
    "{}@host",
]


@pytest.mark.parametrize("credentials", [f"user:{QUOTED}", f":{QUOTED}", "user:horse", "user:battery:horse"])
@pytest.mark.parametrize("url", WRONG_URLS)
def test_no_error_shows_a_password(fake, url, credentials):
    with pytest.raises(PyncetteError) as info:
        Pyncette(url.format(credentials))
    shown = "".join(traceback.format_exception(info.value, chain=True)[-1:]) + str(info.value) + repr(info.value)
    if not url.startswith("sqlite:///"):  # a path has no password
        assert "horse" not in shown
    cause = info.value.__cause__
    assert cause is None or "horse" not in str(cause)


def test_neither_str_nor_repr_shows_a_password():
    url = BackendURL.parse(f"redis://user:{QUOTED}@host:1/0?sentinel_password=battery-horse")
    assert str(url) == "redis://user:***@host:1/0"
    assert "user" in repr(url)
    opener = from_factory(sqlite_repository, {"sqlite_database": "horse"})  # stands for any option, as redis_url
    for shown in (str(url), repr(url), f"{url} {url!r}", repr(opener)):
        assert "horse" not in shown
    assert "horse" in url.unparse(), "but a driver gets it"


SECRET = "Zq7" + "horse-and-more"
#: Where the slips of somebody who types a URL put a password: S.
SLIPS = [
    *("A://:S", "A://:S/0", "A://:S?number=1", "A://u:S", "A://u:S/0", "A://host:S", "A://host:1:S", "A://S:1:2", "A://a:1,b:S"),
    *("A://u:S@h:bad", "A://u:S@[::1", "A://u:S@h?bogus=1", "A://u:S@h?number=x", "A://u:S@h?flag=1&flag=2", "A://S@h?bogus=1"),
    *(
        "A:S",
        "A:/:S@h",
        "A//:S@h",
        "A//u:S",
        ":S@h",
        ":S",
        "u:S@h/0",
        "A:///u:S@h?bogus=1",
        "A:////:S@h?bogus=1",
        "A://u:S/@h",
        "u:S://h",
    ),
    *(
        "A://u:x/S@h",
        "A://u:x?S@h",
        "A://u:x@y/S@h",
        "A://:x?S",
        "A://:x/S",
        "A://u:x/S",
        "A:// :S",
        "A://h:S,h:S",
        "A://:1/S",
        "A://:1?S=1",
    ),
]


@settings(deadline=None)  # the first URL of a scheme loads its driver
@given(
    scheme=st.sampled_from(
        ["sqlite", "memory", "fake", "redis", "redis+sentinel", "postgresql", "mysql", "dynamodb", "fax", "FAKE", ""]
    ),
    slip=st.sampled_from(SLIPS),
    before=st.text("ab1#%!$&'()*+;=-._~", max_size=4),
    after=st.text("ab1#%!$&'()*+;=-._~ ", max_size=4),
)
def test_whatever_slip_is_made_no_secret_is_shown(scheme, slip, before, after):
    url = slip.replace("A", scheme).replace("S", before + SECRET + after)
    shown = []
    try:
        parsed = BackendURL.parse(url)
        shown += [str(parsed), repr(parsed)]
        from_url(url)
    except PyncetteError as error:
        shown += [str(error), repr(error)]
    assert not [each for each in shown if SECRET.lower() in each.lower()]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=12, max_size=24)
hosts = st.sampled_from(["", "localhost", "example.org:99", "[::1]:6379", "a:1,b:2,c"])
paths = st.just("") | text.map(lambda path: "/" + path)


def quoted(value):
    from urllib.parse import quote

    return quote(value, safe="")


@settings(deadline=None)
@given(user=text, password=st.none() | text, hosts=hosts, path=paths, options=st.dictionaries(text.filter(bool), text, max_size=3))
def test_whatever_is_quoted_comes_back_as_it_was(user, password, hosts, path, options):
    credentials = quoted(user) + ("" if password is None else ":" + quoted(password))
    at = "@" if credentials else ""
    query = "&".join(f"{quoted(name)}={quoted(value)}" for name, value in options.items())
    parsed = BackendURL.parse(f"redis://{credentials}{at}{hosts}{quoted(path).replace('%2F', '/')}?{query}")
    assert parsed.username == (user or None)
    assert parsed.password == password
    assert parsed.hosts == hosts
    assert parsed.path == path
    assert parsed.options == options
    again = BackendURL.parse(parsed.unparse())
    assert (again.scheme, again.hosts, again.path, again.username, again.password) == (
        parsed.scheme,
        parsed.hosts,
        parsed.path,
        parsed.username,
        parsed.password,
    )
    assert BackendURL.parse(parsed.unparse("rediss")).scheme == "rediss"


@settings(deadline=None)
@given(user=text, password=secrets, hosts=hosts)
def test_whatever_the_password_it_is_not_shown(user, password, hosts):
    parsed = BackendURL.parse(f"redis://{quoted(user)}:{quoted(password)}@{hosts}/0?namespace=x")
    for shown in (str(parsed), repr(parsed)):
        # What the user name and the rest of the URL have in common with it does not count.
        assert password not in shown.replace(repr(user), "").replace(user or "\0", "")
        assert quoted(password) not in shown.replace(quoted(user) or "\0", "")


@settings(deadline=None)
@given(st.text(max_size=40).map("fake://{}".format) | st.text(max_size=40))
def test_whatever_is_given_as_a_url_is_parsed_or_refused(url):
    try:
        str(BackendURL.parse(url))
    except ConfigurationError as error:
        assert "\n" not in str(error) or "\n" in url


# --- factories and their options ----------------------------------------------------------------------------------------


def repository_of(opening):
    async def main():
        async with opening() as repository:
            return repository

    return asyncio.run(main())


def test_a_factory_gets_its_options(tmp_path):
    path = str(tmp_path / "x.db")
    for app in (
        Pyncette(repository_factory=sqlite_repository, sqlite_database=path, sqlite_timeout=5),
        Pyncette(repository_factory=functools.partial(sqlite_repository, sqlite_database=path), sqlite_timeout=5.0),
        Pyncette(repository_factory=lambda: sqlite_repository(sqlite_database=path)),
    ):
        assert type(repository_of(app._open)).__name__ == "SQLiteRepository"
    assert (tmp_path / "x.db").exists()


def test_an_unknown_option_of_a_factory_is_named_with_those_that_it_knows():
    for factory in (sqlite_repository, functools.partial(sqlite_repository, sqlite_database="x.db")):
        message = error_of(lambda factory=factory: Pyncette(repository_factory=factory, sqlite_tiemout=5))
        assert "'sqlite_tiemout'" in message
        assert "did you mean 'sqlite_timeout'?" in message
    assert "'colour'" in error_of(lambda: Pyncette(repository_factory=memory_repository, colour="red"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sqlite_database": 5}, ["'sqlite_database'", "int", "pass str"]),
        ({"sqlite_database": None}, ["'sqlite_database'", "NoneType", "pass str"]),
        ({"sqlite_timeout": "5"}, ["'sqlite_timeout'", "str", "pass float"]),
        ({"sqlite_timeout": True}, ["'sqlite_timeout'", "bool", "pass float"]),
        ({"sqlite_timeout": timedelta(seconds=5)}, ["'sqlite_timeout'", "timedelta", "pass float"]),
        ({"sqlite_skip_table_create": 1}, ["'sqlite_skip_table_create'", "int", "pass bool"]),
    ],
)
def test_an_option_of_another_type_is_refused(options, words):
    for factory in (sqlite_repository, functools.partial(sqlite_repository, sqlite_database="x.db")):
        message = error_of(lambda factory=factory: Pyncette(repository_factory=factory, **options))
        assert all(word in message for word in words)


def test_an_option_of_another_type_is_refused_without_its_value():
    @contextlib.asynccontextmanager
    async def factory(*, host: str, password: str | None = None, other: Optional[int] = None) -> AsyncIterator[MemoryRepository]:  # noqa: UP045
        yield MemoryRepository()

    message = error_of(lambda: from_factory(factory, {"host": "h", "password": ["horse"]}))
    assert "pass str or None" in message
    assert "horse" not in message
    assert "'other'" in error_of(lambda: from_factory(factory, {"host": "h", "other": "5"}))
    assert from_factory(factory, {"host": "h", "password": None, "other": None})
    assert "'host'" in error_of(lambda: from_factory(factory, {}))


def test_a_factory_may_have_options_of_any_other_kind():
    @contextlib.asynccontextmanager
    async def factory(*, connection: list[int], mode: "int | list[int]" = 0, anything=None):
        yield MemoryRepository()

    assert from_factory(factory, {"connection": "not checked here", "mode": "x", "anything": object()})


def test_a_factory_may_take_whatever_it_is_given():
    @contextlib.asynccontextmanager
    async def factory(**options):
        assert options == {"colour": "red"}
        yield MemoryRepository()

    repository_of(from_factory(factory, {"colour": "red"}))


def test_a_factory_may_be_annotated_for_type_checkers_only():
    @contextlib.asynccontextmanager
    async def factory(*, something: "Something", number: int = 0) -> "AsyncIterator[Something]":
        yield MemoryRepository()

    assert from_factory(factory, {"something": 1, "number": 2})
    assert "'nummer'" in error_of(lambda: from_factory(factory, {"something": 1, "nummer": 2}))


def test_a_factory_may_be_any_object_that_can_be_called():
    class Factory:
        @contextlib.asynccontextmanager
        async def __call__(self, *, number: int = 0):
            yield MemoryRepository()

    repository_of(from_factory(Factory(), {"number": 1}))
    repository_of(from_factory(Factory().__call__, {"number": 1}))
    assert "'colour'" in error_of(lambda: from_factory(Factory(), {"colour": 1}))


@pytest.mark.parametrize(
    ("name", "close"),
    [("lease_duraton", "lease_duration"), ("leaseduration", "lease_duration"), ("duration", None), ("retries", None), ("x", None)],
)
def test_what_a_misspelt_name_may_have_meant(name, close):
    assert did_you_mean(name, ["lease_duration", "interval", "name"]) == close
