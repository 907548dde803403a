"""The history of runs: what is kept, for how long, and that no run is the worse for it."""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ConfigurationError, ExecutionMode, FailureMode, Instance, Pyncette, RepositoryError
from pyncette.errors import TransientRepositoryError
from pyncette.history import text_of_change
from pyncette.repository import Entry, Key, Position, Repository, State, SupportsHistory
from pyncette.runs import RunOutcome
from pyncette.testing import running
from pyncette.worker import recording
from simulation.scripted import ScriptedStore

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class Kept(ScriptedStore):
    """A store whose history can be made to fail."""

    def __init__(self):
        super().__init__(shared=False)
        self.appends, self.prunes = [], []
        self.failure = None

    async def append(self, entries):
        self.appends.append(len(entries))
        if self.failure is not None:
            await self.failure()
        await super().append(entries)

    async def prune(self, now, *, limit):
        self.prunes.append(now)
        return await super().prune(now, limit=limit)

    def entries(self):
        return [entry for entries in self._entries.values() for entry in entries]


@pytest.fixture
def store():
    return Kept()


@pytest.fixture
def app(store, clock):
    return Pyncette(repository_factory=store.open, clock=clock)


async def nothing(context):
    pass


async def failing(context):
    await asyncio.sleep(2)
    raise ValueError("no luck")


def ran(app, clock, duration=HOUR):
    """Run ``app`` for that long, and return an application context that can look at what was kept."""

    async def main():
        async with running(app, clock):
            await clock.advance(duration)

    clock.run(main())


def listed(app, clock, *args, **options):
    async def main():
        async with app.create() as context:
            return await context.list_runs(*args, **options)

    return clock.run(main())


class TestWhatIsKept:
    def test_a_static_task_remembers_each_run(self, app, clock):
        task = app.task(interval=10 * MINUTE)(nothing)
        ran(app, clock)
        runs = listed(app, clock, task).runs
        assert [run.scheduled_at for run in runs] == [START + number * 10 * MINUTE for number in (5, 4, 3, 2, 1)]
        assert {(run.outcome, run.attempt, run.name, run.triggered, run.error) for run in runs} == {
            (RunOutcome.SUCCEEDED, 1, "nothing", False, None)
        }
        assert all(run.lateness == timedelta() and run.duration == timedelta() and run.worker for run in runs)

    def test_each_attempt_is_a_run_of_its_own(self, app, clock):
        template = app.dynamic_task(history=DAY, failure_mode=FailureMode.UNLOCK, retry_delay=MINUTE, max_attempts=2)(failing)

        async def main():
            async with running(app, clock) as context:
                await context.schedule_task(template, "x", execute_at=START)
                await clock.advance(HOUR)
                return await context.list_runs(template, "x")

        runs = clock.run(main()).runs
        assert [(run.attempt, run.outcome, run.error, run.duration) for run in runs] == [
            (2, RunOutcome.GIVEN_UP, "ValueError: no luck", 2 * SECOND),
            (1, RunOutcome.FAILED, "ValueError: no luck", 2 * SECOND),
        ]
        assert runs[0].lateness > MINUTE

    def test_at_most_once_remembers_how_it_ended(self, app, clock):
        template = app.dynamic_task(history=DAY, execution_mode=ExecutionMode.AT_MOST_ONCE)(failing)

        async def main():
            async with running(app, clock) as context:
                await context.schedule_task(template, "x", execute_at=START)
                await clock.advance(HOUR)
                return await context.list_runs(template, "x")

        [run] = clock.run(main()).runs
        assert (run.outcome, run.error) == (RunOutcome.FAILED, "ValueError: no luck")

    def test_once_offs_that_are_gone_are_found_by_their_template(self, app, clock):
        template = app.partitioned_task(partition_count=4, history=DAY)(nothing)

        async def main():
            async with running(app, clock) as context:
                await context.schedule_tasks(
                    template, [Instance(name=f"é{number}", execute_at=START + number * SECOND) for number in range(10)]
                )
                await clock.advance(MINUTE)
                assert await context.get_task(template, "é3") is None
                pages, token = [], None
                while True:
                    page = await context.list_runs(template, limit=3, continuation_token=token)
                    pages.append([run.name for run in page.runs])
                    if (token := page.continuation_token) is None:
                        return pages, (await context.list_runs(template, "é3")).runs

        pages, [run] = clock.run(main())
        assert [name for page in pages for name in page] == [f"é{number}" for number in range(9, -1, -1)]
        assert [len(page) for page in pages] == [3, 3, 3, 1]
        assert run.scheduled_at == START + 3 * SECOND

    def test_an_extra_run_is_one_of_its_task(self, app, clock):
        task = app.task(interval=DAY)(nothing)
        template = app.dynamic_task(history=DAY)(failing)

        async def main():
            async with running(app, clock) as context:
                await context.schedule_task(template, "x", interval=DAY)
                await context.trigger_task(task)
                await context.trigger_task(template, "x")
                await clock.advance(30 * SECOND)
                return [(await context.list_runs(*of)).runs for of in ((task,), (template, "x"))]

        [[one], [other]] = clock.run(main())
        assert (one.name, one.triggered, one.outcome) == ("nothing", True, RunOutcome.SUCCEEDED)
        assert (other.name, other.triggered, other.outcome) == ("x", True, RunOutcome.FAILED)

    @pytest.mark.parametrize("history", [None, False, timedelta()])
    def test_a_task_without_a_history_costs_the_store_nothing(self, app, store, clock, history):
        task = app.task(interval=MINUTE, history=history)(nothing)
        template = app.dynamic_task(name="template")(nothing)

        async def main():
            async with running(app, clock) as context:
                await context.schedule_task(template, "x", interval=MINUTE)
                await clock.advance(HOUR)

        clock.run(main())
        assert (store.appends, store.prunes) == ([], [])
        assert listed(app, clock, task).runs == []

    @pytest.mark.parametrize("history", [7, "7 days", -DAY, True])
    def test_an_option_that_makes_no_sense_is_refused(self, app, history):
        with pytest.raises(ConfigurationError, match="The history of task 'nothing' is "):
            app.task(interval=MINUTE, history=history)(nothing)

    def test_runs_that_end_together_are_written_together(self, app, store, clock):
        template = app.dynamic_task(history=DAY)(nothing)

        async def main():
            async with running(app, clock) as context:
                await context.schedule_tasks(template, [Instance(name=f"{number}", execute_at=START) for number in range(700)])
                await clock.advance(MINUTE)

        clock.run(main())
        assert sum(store.appends) == 700
        assert len(store.appends) <= 3


class TestItsEnd:
    def test_what_is_over_is_not_shown_and_is_removed(self, store, clock):
        app = Pyncette(repository_factory=store.open, clock=clock, poll_interval=HOUR)
        task = app.task(interval=HOUR, history=10 * HOUR)(nothing)
        ran(app, clock, timedelta(days=4, minutes=1))
        assert [run.scheduled_at for run in listed(app, clock, task).runs] == [START + (96 - back) * HOUR for back in range(10)]
        assert len(store.entries()) <= 12

    def test_a_task_that_runs_all_the_time_keeps_the_newest(self, app, store, clock, monkeypatch):
        monkeypatch.setattr(recording, "_MOST_OF_TASK", 100)
        task = app.task(interval=10 * SECOND)(nothing)
        ran(app, clock, HOUR)
        runs = listed(app, clock, task, limit=1000).runs
        assert 90 <= len(runs) <= 115
        assert runs[0].scheduled_at == START + HOUR - 10 * SECOND

    def test_an_end_beyond_the_calendar_is_its_end(self, app, store, clock):
        task = app.task(interval=HOUR, history=timedelta(days=36500))(nothing)
        clock.set(datetime(9990, 1, 1, tzinfo=UTC))
        ran(app, clock, 2 * HOUR)
        assert store.entries()[0].expires_at == datetime.max.replace(tzinfo=UTC)
        assert len(listed(app, clock, task).runs) == 1


class TestNoRunIsTheWorse:
    @pytest.mark.parametrize("error", [TransientRepositoryError("away"), RepositoryError("no table"), ValueError("a bug")])
    def test_if_nothing_can_be_written(self, app, store, clock, caplog, error):
        count = 0

        @app.task(interval=MINUTE)
        async def counted(context):
            nonlocal count
            count += 1

        async def failure():
            raise error

        store.failure = failure
        ran(app, clock, HOUR)
        assert count == 59
        assert len(store.appends) < 100  # it is not tried all the time
        assert 1 <= len([record for record in caplog.records if record.levelno == logging.WARNING]) <= 2

    def test_if_writing_hangs(self, app, store, clock, caplog):
        count = 0

        @app.task(interval=MINUTE)
        async def counted(context):
            nonlocal count
            count += 1

        store.failure = asyncio.Event().wait
        began = clock.elapsed
        ran(app, clock, HOUR)
        assert count == 59
        assert clock.elapsed - began < 3600 + 10  # nor is the end much later
        assert "59 entries are missing" in caplog.text

    def test_what_was_away_for_a_while_is_written_later(self, app, store, clock, caplog):
        task = app.task(interval=MINUTE)(nothing)

        async def main():
            async with running(app, clock) as context:

                async def failure():
                    if clock.elapsed < 1800:
                        raise TransientRepositoryError("away")

                store.failure = failure
                await clock.advance(HOUR)
                return await context.list_runs(task)

        assert len(clock.run(main()).runs) == 59
        assert caplog.text == ""

    def test_memory_is_bounded_and_the_log_says_what_is_missing(self, app, store, clock, caplog, monkeypatch):
        monkeypatch.setattr(recording, "_MOST_WAITING", 20)
        task = app.task(interval=MINUTE)(nothing)

        async def main():
            async with running(app, clock) as context:

                async def failure():
                    if clock.elapsed < 3000:
                        raise TransientRepositoryError("away")

                store.failure = failure
                await clock.advance(HOUR)
                return await context.list_runs(task)

        missing = 59 - len(clock.run(main()).runs)
        assert 20 <= missing <= 40
        messages = [record.message for record in caplog.records]
        assert len(messages) == 2
        assert "the store can't keep up" in messages[0]
        assert messages[1] == f"The history can be written again; {missing} entries are missing"

    def test_a_process_that_ends_writes_what_is_left(self, app, store, clock):
        template = app.dynamic_task(history=DAY)(nothing)

        async def main():
            async with app.create() as context:
                await context.schedule_task(template, "x", execute_at=START)
                run = asyncio.create_task(context.run())
                while not any(call.method == "settle" for call in store.calls):
                    await asyncio.sleep(0.01)
                assert store.entries() == []
                context.shutdown()
                await run
            return store.entries()

        assert len(clock.run(main())) == 1

    def test_removing_what_is_over_may_fail(self, app, store, clock):
        async def prune(now, *, limit):
            raise RepositoryError("denied")

        store.prune = prune
        task = app.task(interval=MINUTE)(nothing)
        ran(app, clock, HOUR)
        assert len(listed(app, clock, task).runs) == 59

    def test_a_store_that_keeps_none_runs_tasks_and_says_so(self, clock):
        store = ScriptedStore()
        app = Pyncette(repository_factory=lambda: without_history(store), clock=clock)
        task = app.task(interval=MINUTE)(nothing)
        ran(app, clock, HOUR)
        assert len(store.called("settle")) == 59
        with pytest.raises(RepositoryError, match="keeps no history; use another store"):
            listed(app, clock, task)


@contextlib.asynccontextmanager
async def without_history(store):
    """The store as that of an author who has never heard of histories."""

    class Plain(Repository):
        register, unregister, claim = store.register, store.unregister, store.claim
        settle, get, list = store.settle, store.get, store.list

    assert not isinstance(Plain(), SupportsHistory)
    yield Plain()


class TestWhoDidIt:
    def test_what_was_done_to_a_task_is_among_its_runs(self, app, clock):
        task = app.task(interval=MINUTE)(nothing)
        template = app.dynamic_task(name="template", history=DAY)(nothing)
        plain = app.dynamic_task(name="plain")(nothing)

        async def main():
            async with running(app, clock) as context:
                await clock.advance(SECOND)
                await context.pause_task(task, note="until noon", by="ann")
                await clock.advance(SECOND)
                await context.resume_task(task, by="bob")
                await context.trigger_task(task)
                await context.schedule_task(template, "x", interval=HOUR)
                await context.schedule_task(template, "y", interval=HOUR, by="ann")
                await context.pause_template(template, by="bob")
                await context.unschedule_task(template, "x", by="ann")
                await context.unschedule_task(template, "y")
                await context.schedule_task(plain, "x", interval=HOUR, by="ann")
                await clock.advance(10 * SECOND)
                return [await context.list_runs(each) for each in (task, template, plain)]

        of_task, of_template, of_plain = clock.run(main())
        assert [(change.action, change.by, change.details) for change in of_task.changes] == [
            ("trigger", None, {}),
            ("resume", "bob", {}),
            ("pause", "ann", {"note": "until noon"}),
        ]
        assert of_task.changes[-1].at == START + SECOND
        assert [(run.name, run.triggered) for run in of_task.runs] == [("nothing", True)]
        assert [(change.name, change.action, change.by) for change in of_template.changes] == [
            ("x", "unschedule", "ann"),
            ("", "pause template", "bob"),
            ("y", "schedule", "ann"),
        ]
        assert of_plain.changes == []

    @pytest.mark.parametrize("hangs", [False, True])
    def test_it_is_done_although_it_can_not_be_written(self, app, store, clock, hangs):
        task = app.task(interval=MINUTE)(nothing)

        async def refused():
            raise RepositoryError("no table")

        async def main():
            async with running(app, clock) as context:
                await clock.advance(SECOND)
                store.failure = asyncio.Event().wait if hangs else refused
                began = clock.elapsed
                assert await context.pause_task(task, by="ann")
                return clock.elapsed - began

        assert clock.run(main()) <= 1
        assert store.rows()["nothing"].state is State.PAUSED

    def test_a_schedule_that_a_deploy_changed_is_told(self, store, clock):
        def deployed(interval):
            app = Pyncette(repository_factory=store.open, clock=clock)
            return app, app.task(interval=interval)(nothing)

        ran(deployed(MINUTE)[0], clock, SECOND)
        app, task = deployed(HOUR)
        ran(app, clock, SECOND)
        [change] = listed(app, clock, task).changes
        assert change.action == "replace"
        assert change.details == {"was": "interval 60 @UTC", "now": "interval 3600 @UTC"}


class TestLooking:
    @pytest.mark.parametrize("token", ["", "x", "1:", ":a", "9" * 30 + ":a", "1:a b", 7, "-999999999999999999:a"])
    def test_a_token_of_something_else_is_refused(self, app, clock, token):
        task = app.task(interval=MINUTE)(nothing)
        with pytest.raises(ConfigurationError, match="is not a continuation token of a history"):
            listed(app, clock, task, continuation_token=token)

    def test_a_page_is_not_shifted_by_what_happens_meanwhile(self, app, clock):
        task = app.task(interval=MINUTE)(nothing)

        async def main():
            async with running(app, clock) as context:
                await clock.advance(10.5 * MINUTE)
                first = await context.list_runs(task, limit=4)
                await clock.advance(10 * MINUTE)
                return first, await context.list_runs(task, limit=4, continuation_token=first.continuation_token)

        pages = clock.run(main())
        minutes = [[(run.scheduled_at - START) // MINUTE for run in page.runs] for page in pages]
        assert minutes == [[10, 9, 8, 7], [6, 5, 4, 3]]

    def test_entries_of_another_release_are_passed_over(self, app, store, clock):
        task = app.task(interval=HOUR)(nothing)
        texts = ["", "{", "7", "[]", '{"change":7}', '{"change":[1,2]}', '{"run":"x"}', '{"new":1}', "[" * 4000]
        entries = [
            Entry(Key("static", "nothing"), Position(START, f"{index}"), START + DAY, text) for index, text in enumerate(texts)
        ]

        async def main():
            await store.append(entries)
            async with app.create() as context:
                return await context.list_runs(task)

        page = clock.run(main())
        assert (page.runs, page.changes) == ([], [])

    @pytest.mark.parametrize("text", ["x", "é", "\0", '"', "\ud800", "😀"])
    def test_a_change_fits_whatever_it_says(self, text):
        kept = text_of_change("pause", text * 5000, {"note": text * 10_000, "count": 7, "nothing": None})
        assert len(kept) <= 4000
        assert "\0" not in kept
        assert kept.encode()
