"""The options of the plugin, what a run without them tests, and that other projects notice nothing of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyncette_conformance.discovery import discover, untested

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
#: One test for each store, so that a run is short.
ONE = "-kTestGet and reading"
SUITE = ["-p", "no:cacheprovider", "--pyargs", "pyncette_conformance.suite.test_get", ONE]


@pytest.fixture(autouse=True)
def no_stores_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if re.fullmatch("PYNCETTE_TEST_.*_URL", name):
            monkeypatch.delenv(name)


class TestWhichStoresAreTested:
    def test_without_options_those_that_need_no_server(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest_inprocess(*SUITE)
        result.assert_outcomes(passed=3, deselected=result.parseoutcomes()["deselected"])
        result.stdout.fnmatch_lines("*stores: memory, sqlite-memory, sqlite-file*")

    def test_those_of_the_environment_are_tested_as_well(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYNCETTE_TEST_MY_STORE_URL", f"sqlite:///{pytester.path}/mine.db")
        monkeypatch.setenv("PYNCETTE_TEST_EMPTY_URL", "")
        result = pytester.runpytest_inprocess(*SUITE)
        result.stdout.fnmatch_lines("*stores: memory, sqlite-memory, sqlite-file, my-store*")
        assert result.parseoutcomes()["passed"] == 4

    def test_with_urls_only_those(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYNCETTE_TEST_MY_STORE_URL", "memory://")
        result = pytester.runpytest_inprocess(
            *SUITE, "--pyncette-url", f"sqlite:///{pytester.path}/a.db", "--pyncette-url=memory://", "--pyncette-url=memory://"
        )
        result.stdout.fnmatch_lines("*stores: sqlite, memory, memory-2*")
        assert result.parseoutcomes()["passed"] == 3

    @pytest.mark.parametrize("url", ["no-such-store://host", "not a url", "sqlite:///x.db?no_such_option=1"])
    def test_a_wrong_url_is_an_error_of_usage(self, pytester: pytest.Pytester, url: str) -> None:
        result = pytester.runpytest_inprocess(*SUITE, "--pyncette-url", url)
        assert result.ret == pytest.ExitCode.USAGE_ERROR or "UsageError" in result.stdout.str()
        assert "passed" not in result.parseoutcomes()

    def test_passwords_are_not_shown(self) -> None:
        [backend] = discover(["postgresql://user:secret@host/db"], {})
        assert "secret" not in repr(backend)
        assert backend.name == "postgresql"

    def test_names_are_unique_and_tell_the_store(self) -> None:
        environment = {"PYNCETTE_TEST_REDIS_CLUSTER_URL": "redis+cluster://h", "PYNCETTE_TEST_B_URL": "b://h", "OTHER_URL": "c://h"}
        names = [backend.name for backend in discover([], environment)]
        assert names == ["memory", "sqlite-memory", "sqlite-file", "b", "redis-cluster"]
        assert [backend.name for backend in discover(["a://1", "b://1", "a://2"], environment)] == ["a", "b", "a-2"]

    def test_only_what_lives_in_the_process_is_excused(self) -> None:
        urls = ["memory://", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///x.db", "redis://h"]
        found = [(backend.capabilities.durable, backend.capabilities.shared) for backend in discover(urls, {})]
        assert found == [(False, False)] * 4 + [(True, True)] * 2

    def test_installed_stores_that_are_not_tested_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pyncette_conformance.discovery._installed", lambda: {"memory", "sqlite", "redis", "mysql"})
        assert untested([], {}) == ["mysql", "redis"]
        assert untested(["redis://h"], {}) == ["mysql"]
        assert untested([], {"PYNCETTE_TEST_X_URL": "mysql://h"}) == ["redis"]


class TestOrder:
    FAMILIES = ["TestRegister", "TestGet", "TestClaim", "TestSettle", "TestNames", "TestRaces", "TestSharing", "TestModel"]

    def collected(self, pytester: pytest.Pytester, *arguments: str) -> list[str]:
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--collect-only", "-q", *arguments)
        return [line for line in result.stdout.lines if "::" in line]

    def test_tests_run_in_the_order_in_which_a_store_is_written(self, pytester: pytest.Pytester) -> None:
        urls = ["--pyncette-url=memory://", "--pyncette-url=sqlite://"]
        found = [line.split("::")[1] for line in self.collected(pytester, "--pyargs", "pyncette_conformance.suite", *urls)]
        places = [found.index(family) for family in self.FAMILIES]
        assert places == sorted(places)
        again = found[places[-1] + 1 :]  # the other store
        assert [again.index(family) for family in self.FAMILIES] == places
        assert not {"TestRules"} & set(found), "the rules of core are no store's business"

    def test_other_tests_stay_where_they_are(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            import pytest
            from pyncette.memory import memory_repository
            from pyncette_conformance.suite import TestModel as Histories, TestRegister as Plans

            @pytest.fixture
            def repository_factory():
                return memory_repository

            class TestHistories(Histories):
                pass

            def test_first(): ...

            class TestPlans(Plans):
                pass

            def test_last(): ...
            """
        )
        found = [line.split("::", 1)[1] for line in self.collected(pytester)]
        assert [found[0].split("::")[0], found[1], found[-2].split("::")[0], found[-1]] == [
            "TestPlans",
            "test_first",
            "TestHistories",
            "test_last",
        ]


class TestQuick:
    def test_batches_are_small_and_histories_few(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            from pyncette_conformance.suite.base import large_batch
            from pyncette_conformance.suite.test_model import settings_of

            def test_it(request):
                print("sizes", large_batch(request.config), settings_of(request.config).max_examples)
            """
        )
        sizes = [[], ["--pyncette-quick"], ["--pyncette-quick", "--pyncette-batch=50", "--pyncette-examples=7"]]
        for options, expected in zip(sizes, ["1100 50", "20 5", "50 7"], strict=True):
            pytester.runpytest_inprocess("-s", *options).stdout.fnmatch_lines(f"*sizes {expected}*")


class TestFailures:
    def test_they_name_the_fields_that_differ(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            from pyncette.lifecycle import register
            from pyncette.repository import Key
            from pyncette_conformance.builders import T0, after, registration
            from pyncette_conformance.comparison import assert_has

            ROW = register(None, T0, registration(Key("p", "a")))
            LATER = ROW._replace(ready_at=after(1), revision=3)

            def test_row():
                assert ROW == LATER

            def test_rows():
                assert [ROW, ROW, None] == [ROW, LATER, ROW]

            def test_some_fields():
                assert_has(ROW, spec="{}", occurrence=after(1), attempt=5)

            def test_long_texts():
                assert_has(ROW._replace(spec="x" * 100_000), spec="x" * 65_000 + "y" * 35_000)

            def test_no_row():
                assert_has(None, spec="{}")
            """
        )
        result = pytester.runpytest_inprocess("-q")
        result.assert_outcomes(failed=5)
        result.stdout.fnmatch_lines(
            [
                "*row.ready_at: expected 2041-02-03 04:05:07.789012+00:00, got 2041-02-03 04:05:06.789012+00:00",
                "*row.revision: expected 3, got 0",
                "*[[]1].ready_at: expected 2041-02-03 04:05:07*",
                "*[[]1].revision: expected 3, got 0",
                "*[[]2]: expected Row(*, got None",
                "*row.occurrence: expected 2041-02-03 04:05:07*, got 2041-02-03 04:05:06*",
                "*row.attempt: expected 5, got 0",
                "*row.spec: expected at 65000 'yyyyyyyyyyyyyyyyyyyy' (of 100000 characters), got 'xxxxxxxxxxxxxxxxxxxx' (of 100000 *",
                "*a row with spec was expected, but there is none*",
            ]
        )

    def test_a_listing_that_goes_round_in_circles_ends(self, pytester: pytest.Pytester) -> None:
        for name in ("tiny_store", "broken_stores", "broken_values"):
            pytester.makepyfile(**{name: (HERE / f"{name}.py").read_text()})
        pytester.syspathinsert()
        pytester.makepyfile(
            """
            import pytest
            from broken_values import BeginsAnewAfterTheEmptyName
            from pyncette_conformance.suite import TestNames

            @pytest.fixture
            def repository_factory():
                return BeginsAnewAfterTheEmptyName.open
            """
        )
        result = pytester.runpytest_inprocess("-q", "-k", "come_back and blanks")
        result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
        result.stdout.fnmatch_lines("*goes round in circles: the token '' again*")


class TestAdoption:
    """A backend's own tests, which override fixtures."""

    @pytest.fixture(autouse=True)
    def tiny_store(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(tiny_store=(HERE / "tiny_store.py").read_text())
        pytester.makepyfile(broken_stores=(HERE / "broken_stores.py").read_text())
        pytester.syspathinsert()

    def adopt(self, pytester: pytest.Pytester, body: str, *options: str, families: str = "*") -> pytest.RunResult:
        pytester.makepyfile(
            test_it=f"""
            import contextlib, pytest
            from pyncette_conformance import Capabilities
            from pyncette_conformance.suite import {families}
            from tiny_store import TinyStore

            @pytest.fixture
            def repository_factory():
                return TinyStore.open
            {body}
            """.replace("\n            ", "\n")
        )
        # In a process of its own: modules of the same name were imported by other tests.
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rA", "test_it.py", *options)

    @staticmethod
    def declare(arguments: str) -> str:
        return f"""
            @pytest.fixture
            def repository_capabilities():
                return Capabilities({arguments})
        """

    def test_one_fixture_is_enough(self, pytester: pytest.Pytester) -> None:
        result = self.adopt(pytester, "", ONE)
        result.assert_outcomes(passed=1, deselected=result.parseoutcomes()["deselected"])
        assert "stores:" not in result.stdout.str()

    def test_nothing_is_excused_unless_it_is_declared(self, pytester: pytest.Pytester) -> None:
        result = self.adopt(pytester, "", "-k see_each_others or outlive", families="TestDurability, TestSharing")
        assert result.parseoutcomes()["failed"] == 3

    def test_what_is_declared_is_expected_to_fail(self, pytester: pytest.Pytester) -> None:
        body = self.declare("durable=False, shared=False")
        result = self.adopt(pytester, body, "-k see_each_others or outlive", families="TestDurability, TestSharing")
        assert result.parseoutcomes()["xfailed"] == 3
        result.stdout.fnmatch_lines("*XFAIL*declared durable=False*")

    def test_a_declaration_that_is_no_longer_true_fails(self, pytester: pytest.Pytester) -> None:
        body = (
            self.declare("durable=False, shared=False")
            + """
            @pytest.fixture
            def repository_factory():
                store = TinyStore()

                @contextlib.asynccontextmanager
                async def same():
                    yield store

                return same
            """
        )
        result = self.adopt(pytester, body, "-k see_each_others or outlive", families="TestDurability, TestSharing")
        assert result.parseoutcomes()["failed"] == 3
        result.stdout.fnmatch_lines("*passes, although it is declared durable=False; remove the declaration*")

    def test_a_single_test_can_be_excluded_with_a_reason(self, pytester: pytest.Pytester) -> None:
        excluded = "TestStats.test_rows_due_rows_and_failed_rows_are_counted"
        body = self.declare(f"exclusions={{'{excluded}': 'counts too much'}}")
        broken = body + "\n            from broken_stores import CountsTheFuture as TinyStore\n"
        result = self.adopt(pytester, broken, "-k failed_rows", families="TestStats")
        assert result.parseoutcomes()["xfailed"] == 1
        result.stdout.fnmatch_lines("*excluded: counts too much*")
        right = self.adopt(pytester, body, "-k failed_rows", families="TestStats")
        assert right.parseoutcomes()["failed"] == 1

    @pytest.mark.parametrize(("declared", "outcome"), [("None", "passed"), ("True", "passed"), ("False", "failed")])
    def test_an_optional_protocol_that_is_there(self, pytester: pytest.Pytester, declared: str, outcome: str) -> None:
        result = self.adopt(pytester, self.declare(f"supports_stats={declared}"), "-k an_empty_partition", families="TestStats")
        assert result.parseoutcomes()[outcome] == 1

    @pytest.mark.parametrize(("declared", "outcome"), [("None", "skipped"), ("True", "failed"), ("False", "skipped")])
    def test_an_optional_protocol_that_is_lacking(self, pytester: pytest.Pytester, declared: str, outcome: str) -> None:
        result = self.adopt(pytester, self.declare(f"supports_server_time={declared}"), "-k aware", families="TestServerTime")
        assert result.parseoutcomes()[outcome] == 1

    def test_a_history_that_differs_is_told_with_its_seed(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        body = self.declare("shared=False") + "\n            from broken_stores import DoesNotRaiseTheEpoch as TinyStore\n"
        first = self.adopt(pytester, body, families="TestModel")
        match = re.search(r"Repeat with (--hypothesis-seed=\d+)", first.stdout.str())
        assert match is not None, first.stdout.str()
        again = self.adopt(pytester, body, match[1], families="TestModel")
        histories = [re.findall(r"^E? *state\.\w+\(.*$", run.stdout.str(), re.MULTILINE) for run in (first, again)]
        assert histories[0] == histories[1] != []


class TestSupportTable:
    def test_it_is_written_to_a_file(self, pytester: pytest.Pytester) -> None:
        modules = [f"pyncette_conformance.suite.test_{family}" for family in ("durability", "get", "optional")]
        options = ["-k", "outlive or reading or aware", "--pyncette-support-table=table.md"]
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--pyargs", *modules, *options)
        assert result.ret == 0
        assert (pytester.path / "table.md").read_text() == (
            "| behaviour | memory | sqlite-memory | sqlite-file |\n"
            "| --- | --- | --- | --- |\n"
            "| **get** |  |  |  |\n"
            "| reading changes nothing | yes | yes | yes |\n"
            "| **server time** |  |  |  |\n"
            "| it is aware and in utc | no (1) | no (1) | no (1) |\n"
            "| **durability** |  |  |  |\n"
            "| rows outlive the repository that wrote them | no (2) | no (2) | yes |\n"
            "| the history outlives the repository that wrote it | no (2) | no (2) | yes |\n"
            "\n"
            "1. optional: the store does not have SupportsServerTime\n"
            "2. declared durable=False\n"
        )

    def test_it_is_printed(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest_inprocess(*SUITE, "--pyncette-url=memory://", "--pyncette-support-table")
        result.stdout.fnmatch_lines(["| behaviour | memory |", "| reading changes nothing | yes |"])

    def test_a_failure_is_a_failure(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            import pytest
            from pyncette_conformance.support_table import PROPERTY

            class TestIt:
                @pytest.mark.parametrize("number", [1, 2, 3])
                def test_some_of_it_works(self, number, record_property):
                    record_property(PROPERTY, "mine")
                    assert number != 2
            """
        )
        result = pytester.runpytest_inprocess("--pyncette-support-table")
        result.stdout.fnmatch_lines(["| some of it works | **FAILS** |"])


class TestOtherProjects:
    def test_notice_nothing(self, tmp_path: Path) -> None:
        """The plugin is loaded in every run; it imports nothing of what it needs, and prints nothing."""
        (tmp_path / "test_other.py").write_text(
            "import sys\n"
            "def test_nothing_is_imported():\n"
            "    assert 'pyncette_conformance.plugin' in sys.modules\n"
            "    assert not {'pyncette', 'pyncette_conformance.store', 'pyncette_conformance.machine'} & sys.modules.keys()\n"
        )
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stdout
        assert "stores:" not in run.stdout

    def test_keep_their_own_fixtures(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest("import pytest\n@pytest.fixture\ndef repository_factory():\n    return 5\n")
        pytester.makepyfile("def test_it(repository_factory):\n    assert repository_factory == 5\n")
        pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
