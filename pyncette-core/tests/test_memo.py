"""What core remembers of a row in its memo, as text; and what is remembered of each way in which a run can end."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette import ExecutionMode, FailureMode, Pyncette
from pyncette.identity import new_worker_id
from pyncette.memo import Memo, Note, of_start, of_success, quoted
from pyncette.runs import Run, RunOutcome
from pyncette.testing import running
from simulation.scripted import ScriptedStore

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
MOST_CHARACTERS = 4000

instants = st.datetimes(datetime(10, 1, 1), datetime(9990, 1, 1), timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
runs = st.builds(
    Run,
    scheduled_at=instants,
    started=st.none() | instants,
    ended=st.none() | instants,
    outcome=st.sampled_from(RunOutcome),
    attempt=st.integers(0, 2**40),
    worker=st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), max_size=200),
    error=st.none() | texts,
)
memos = st.builds(
    Memo,
    st.none() | runs,
    st.integers(0, 2**40),
    st.none() | st.builds(Note, text=st.none() | texts, by=st.none() | st.text("ab:@", max_size=50), at=instants),
    st.integers(0, 2**40),
    st.none() | instants,
)


@given(memos)
def test_what_is_remembered_is_read_as_it_was_written(memo):
    assert Memo.read(memo.text()) == memo


@pytest.mark.parametrize("character", ["a", "é", "\0", "\x1f", "\x7f", '"', "\\", "\n", "\ud800", "\u2028", "😀"])
def test_a_memo_is_short_enough_for_each_store_whatever_goes_in(character):
    endless = character * 100_000
    run = Run(
        scheduled_at=START, started=START, ended=START, outcome=RunOutcome.FAILED, attempt=10**30, worker=endless, error=endless
    )
    text = Memo(run, 10**30, Note(text=endless, by=endless, at=START), 10**30).text()
    assert len(text) <= MOST_CHARACTERS
    assert "\0" not in text
    assert text.encode()
    memo = Memo.read(text)
    assert memo.last_run.error.endswith("…")
    assert len(memo.last_run.error) > 100
    assert memo.note.text.endswith("…")
    assert memo.note.at == START


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_that_is_no_memo_is_an_empty_one(text):
    assert Memo.read(text) == Memo()


scalars = st.sampled_from([None, True, 0, 7, -1, 1.5, 10**30, "", "failed", "no outcome", [], {}])


@given(
    st.dictionaries(
        st.sampled_from(["run", "failures", "seen", "note", "of another release"]), scalars | st.lists(scalars, max_size=8)
    )
)
def test_members_that_make_no_sense_are_left_out(values):
    memo = Memo.read(json.dumps(values))
    assert memo.failures >= 0
    assert memo.seen >= 0
    assert Memo.read(memo.text()) == memo


def test_a_memo_nested_beyond_measure_is_an_empty_one():
    assert Memo.read("[" * 4000) == Memo()


def test_the_memos_that_are_made_in_one_go_are_those_of_the_others():
    run = Run(
        scheduled_at=START, started=START + SECOND, ended=START + HOUR, outcome=RunOutcome.SUCCEEDED, attempt=2, worker='a"\\é:1:x'
    )
    at = 1767225600_000000
    assert of_success(at, at + 1_000_000, at + 3600_000_000, 2, quoted(run.worker)) == Memo(run).text()
    started = Run(
        scheduled_at=START, started=START + SECOND, ended=None, outcome=RunOutcome.STARTED, attempt=1, worker="host:1:abcd"
    )
    assert of_start(at, at + 1_000_000, 1, quoted("host:1:abcd")) == Memo(started).text()


def test_a_worker_has_an_id_of_its_own():
    ids = {new_worker_id() for _ in range(20)}
    assert len(ids) > 1
    host, pid, digits = ids.pop().rsplit(":", 2)
    assert host
    assert int(pid)
    assert len(digits) == 4


# --- what is remembered of a run ----------------------------------------------------------------------------------------


class Stored:
    """An application in virtual time with one template, and what its store remembers of the instance ``x``."""

    def __init__(self, clock, **options):
        self.clock = clock
        self.store = ScriptedStore()
        self.app = Pyncette(repository_factory=self.store.open, clock=clock)
        self.bodies = []
        self.template = self.app.dynamic_task(name="template", **options)(self._body)

    async def _body(self, context):
        await self.bodies.pop(0)(context)

    async def schedule(self, **schedule):
        async with self.app.create() as context:
            await context.schedule_task(self.template, "x", **(schedule or {"interval": HOUR}))

    async def task(self):
        async with self.app.create() as context:
            return await context.get_task(self.template, "x")


async def well(context):
    await asyncio.sleep(2)


async def badly(context):
    await asyncio.sleep(2)
    raise ValueError("no 'luck'\0")


def test_a_run_that_ends_well_is_remembered_with_its_times_and_its_worker(clock):
    stored = Stored(clock)
    stored.bodies = [well]

    async def main():
        await stored.schedule()
        before = await stored.task()
        assert before.last_run is None
        assert before.failures == 0
        first = clock.now() + HOUR
        await clock.advance(HOUR + 5 * SECOND)
        async with running(stored.app) as context:
            await clock.advance(3 * SECOND)
            worker = context.worker_id
        task = await stored.task()
        run = task.last_run
        assert run == Run(
            scheduled_at=first,
            started=first + 5 * SECOND,
            ended=first + 7 * SECOND,
            outcome=RunOutcome.SUCCEEDED,
            attempt=1,
            worker=worker,
        )
        assert run.duration == 2 * SECOND
        assert run.lateness == 5 * SECOND
        assert task.failures == 0
        assert task.retries_at is None

    clock.run(main())


@pytest.mark.parametrize("mode", [FailureMode.NONE, FailureMode.UNLOCK, FailureMode.COMMIT])
def test_runs_that_fail_are_counted_until_one_ends_well(clock, mode):
    stored = Stored(clock, failure_mode=mode, lease_duration=20 * SECOND)
    stored.bodies = [badly, badly, well]

    async def main():
        await stored.schedule()
        async with running(stored.app):
            await clock.advance(HOUR + 3 * SECOND)
            task = await stored.task()
            assert task.last_run.outcome is RunOutcome.FAILED
            assert task.last_run.error.startswith("ValueError: no 'luck'\\0")
            assert task.failures == 1
            assert task.locked_until is None
            if mode is FailureMode.NONE:
                assert task.retries_at == task.scheduled_at + 20 * SECOND
            elif mode is FailureMode.UNLOCK:
                assert task.retries_at == task.scheduled_at + 3 * SECOND
            else:
                assert task.retries_at is None
            while len(stored.bodies) > 1:
                await clock.advance(SECOND)
            await clock.advance(2 * SECOND)
            again = await stored.task()
            assert again.failures == 2
            assert again.last_run.attempt == (1 if mode is FailureMode.COMMIT else 2)
            while stored.bodies:
                await clock.advance(SECOND)
            await clock.advance(2 * SECOND)
            task = await stored.task()
            assert task.failures == 0
            assert task.last_run.outcome is RunOutcome.SUCCEEDED
            assert task.last_run.error is None

    clock.run(main())


def test_what_was_given_up_says_so_and_why(clock):
    stored = Stored(clock, failure_mode=FailureMode.UNLOCK, max_attempts=2)
    stored.bodies = [badly, badly]

    async def main():
        await stored.schedule()
        async with running(stored.app):
            await clock.advance(HOUR + 10 * SECOND)
        task = await stored.task()
        assert task.last_run.outcome is RunOutcome.GIVEN_UP
        assert task.last_run.attempt == 2
        assert "luck" in task.last_run.error
        assert task.failures == 2
        assert task.scheduled_at > task.last_run.scheduled_at

    clock.run(main())


@pytest.mark.parametrize("once", [False, True])
def test_a_run_that_is_given_up_since_its_worker_died_says_so(clock, once):
    stored = Stored(clock, max_attempts=1, lease_duration=10 * SECOND)

    async def main():
        at = clock.now() + HOUR
        await stored.schedule(**({"execute_at": at} if once else {"interval": HOUR}))
        await clock.advance(HOUR)
        async with stored.app.create() as context:  # a worker that claims, and is never heard of again
            [claim] = (await context.repository.claim(at, "dynamic:template", lease_duration=10 * SECOND, limit=1)).claims
        async with running(stored.app):
            await clock.advance(15 * SECOND)
        task = await stored.task()
        run = task.last_run
        assert run.outcome is RunOutcome.DIED
        assert (run.scheduled_at, run.started, run.attempt, run.worker) == (at, None, 1, None)
        assert "did not finish within its lease" in run.error
        assert task.failures == 1
        assert (task.error == run.error) is once
        assert claim.attempt == 1

    clock.run(main())


def test_at_most_once_remembers_the_start_since_nobody_stores_the_end(clock):
    stored = Stored(clock, execution_mode=ExecutionMode.AT_MOST_ONCE)
    stored.bodies = [badly]

    async def main():
        await stored.schedule()
        first = clock.now() + HOUR
        async with running(stored.app):
            await clock.advance(HOUR + 5 * SECOND)
        run = (await stored.task()).last_run
        assert (run.outcome, run.scheduled_at, run.started, run.ended) == (RunOutcome.STARTED, first, first, None)

    clock.run(main())


def test_a_run_that_its_process_cut_short_is_no_failure(clock):
    stored = Stored(clock, failure_mode=FailureMode.UNLOCK)
    stored.bodies = [badly, lambda _: asyncio.sleep(1000)]

    async def main():
        await stored.schedule()
        async with stored.app.create() as context:
            running = asyncio.create_task(context.run())
            await clock.advance(HOUR + 5 * SECOND)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        task = await stored.task()
        assert task.last_run.outcome is RunOutcome.INTERRUPTED
        assert task.failures == 1
        assert task.retries_at == clock.now()

    clock.run(main())


def test_attempts_that_nobody_reported_are_failures_too(clock):
    stored = Stored(clock, failure_mode=FailureMode.UNLOCK, lease_duration=10 * SECOND)
    stored.bodies = [badly, badly]

    async def main():
        await stored.schedule()
        async with running(stored.app):
            await clock.advance(HOUR + 3 * SECOND)  # the first attempt has failed
        async with stored.app.create() as context:
            await clock.advance(SECOND)
            assert (
                await context.repository.claim(clock.now(), "dynamic:template", lease_duration=10 * SECOND, limit=1)
            ).claims  # the second dies
        async with running(stored.app):
            while stored.bodies:
                await clock.advance(SECOND)
            await clock.advance(2 * SECOND)
        task = await stored.task()
        assert task.last_run.attempt == 3
        assert task.failures == 3

    clock.run(main())


def test_a_task_that_failed_when_it_was_allowed_more_attempts_says_that_of_itself(clock):
    stored = Stored(clock, failure_mode=FailureMode.UNLOCK, max_attempts=5)
    stored.bodies = [badly, badly]

    async def main():
        await stored.schedule()
        async with running(stored.app):
            await clock.advance(HOUR + 4 * SECOND)
            while stored.bodies:
                await clock.advance(SECOND)
        stored.template.__dict__["attempts"] = 1
        async with running(stored.app):
            await clock.advance(30 * SECOND)
        run = (await stored.task()).last_run
        assert run.outcome is RunOutcome.GIVEN_UP
        assert run.error.startswith("given up: attempt")
        assert "1 are allowed: ValueError: no 'luck'" in run.error
        assert run.started is not None

    clock.run(main())


@pytest.mark.parametrize("memo", ["", "junk", "{", '{"run":[1,2]}', "x" * 4000, '{"failures":"many"}'])
def test_whatever_stands_in_a_memo_a_task_runs(clock, memo):
    stored = Stored(clock, failure_mode=FailureMode.UNLOCK)
    stored.bodies = [badly, well]

    async def main():
        await stored.schedule()
        key = stored.template.key("x")
        async with stored.app.create() as context:
            await context.repository.pause(clock.now(), [key])
            await context.repository.resume(clock.now(), [key], {key: memo})
            assert (await context.get_task(stored.template, "x")).last_run is None
        async with running(stored.app):
            await clock.advance(HOUR + 10 * SECOND)
        assert (await stored.task()).last_run.outcome is RunOutcome.SUCCEEDED

    clock.run(main())


def test_the_last_success_is_remembered_while_later_runs_fail(clock):
    app, fails = Pyncette(repository_factory=ScriptedStore().open, clock=clock), False

    @app.task(interval=SECOND, failure_mode=FailureMode.COMMIT)
    async def task(context):
        if fails:
            raise ValueError

    async def main():
        nonlocal fails
        async with running(app) as app_context:
            await clock.advance(0.5 * SECOND)
            assert (await app_context.get_task(task)).last_success is None
            await clock.advance(3 * SECOND)
            fails = True
            await clock.advance(3 * SECOND)
            stored = await app_context.get_task(task)
            assert (stored.failures, stored.last_run.outcome) == (3, RunOutcome.FAILED)
            assert stored.last_success == START + 3 * SECOND
            fails = False
            await clock.advance(SECOND)
            assert (await app_context.get_task(task)).last_success == START + 7 * SECOND

    clock.run(main())


def test_a_run_that_went_on_under_further_leases_is_one_attempt_and_no_worker_died(clock):
    stored = Stored(clock, failure_mode=FailureMode.UNLOCK, lease_duration=10 * SECOND)

    async def long(context):
        await asyncio.sleep(25)
        raise ValueError("too long")

    stored.bodies = [long, badly]

    async def main():
        await stored.schedule()
        async with running(stored.app):
            while stored.bodies:
                await clock.advance(SECOND)
            await clock.advance(2 * SECOND)
        task = await stored.task()
        assert task.last_run.started is not None
        assert task.last_run.duration == 2 * SECOND
        assert task.failures == 2

    clock.run(main())


def test_of_the_stored_format_nothing_changes():
    at = 1767225600_000000
    run = Run(
        scheduled_at=START,
        started=START,
        ended=START + SECOND,
        outcome=RunOutcome.FAILED,
        attempt=2,
        worker="web-1:4711:9f3a",
        error='no "luck" é',
    )
    assert Memo(run, 3, Note(text="why", by=None, at=START), 4).text() == (
        f'{{"run":[{at},{at},{at + 1000000},"failed",2,"web-1:4711:9f3a","no \\"luck\\" é"],"failures":3,"seen":4,"note":["why",null,{at}]}}'
    )
    assert of_success(at, at, at, 1, '"w"') == f'{{"run":[{at},{at},{at},"succeeded",1,"w"]}}'
    assert [outcome.value for outcome in RunOutcome] == [
        "started",
        "succeeded",
        "failed",
        "given up",
        "died",
        "interrupted",
        "skipped",
    ]
