"""Who did what: the notes of pauses, and the log ``pyncette.audit``."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ConfigurationError, Instance, Pyncette
from pyncette.memo import Note
from pyncette.repository import State
from pyncette.runs import RunOutcome
from pyncette.testing import running

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def audited(caplog):
    """What the audit log has, as (level, message, fields)."""
    caplog.set_level(logging.DEBUG, "pyncette.audit")
    names = ("action", "task", "instance", "count", "by", "note")

    def read():
        found = [
            (record.levelname, record.getMessage(), {name: getattr(record, name) for name in names if hasattr(record, name)})
            for record in caplog.records
            if record.name == "pyncette.audit"
        ]
        caplog.clear()
        return found

    return read


@pytest.fixture
def template(app):
    return app.dynamic_task(name="template")(body)


async def body(context): ...


def test_each_change_is_one_line_with_fields(app, clock, template, audited):
    static = app.task(name="static", interval=HOUR)(body)

    async def main():
        async with running(app) as context:
            await clock.advance(SECOND)
            await context.schedule_task(template, "x", interval=HOUR, by="ann")
            await context.pause_task(template, "x", by="bob", note="it 'floods'\nus")
            await context.resume_task(template, "x", by="cy")
            await context.unschedule_task(template, "x", by="dee")
            await context.pause_task(static)

    clock.run(main())
    assert audited() == [
        (
            "INFO",
            "schedule: task 'template', instance 'x', by 'ann'",
            {"action": "schedule", "task": "template", "instance": "x", "by": "ann"},
        ),
        (
            "INFO",
            "pause: task 'template', instance 'x', by 'bob', note \"it 'floods'\\nus\"",
            {"action": "pause", "task": "template", "instance": "x", "by": "bob", "note": "it 'floods'\nus"},
        ),
        (
            "INFO",
            "resume: task 'template', instance 'x', by 'cy'",
            {"action": "resume", "task": "template", "instance": "x", "by": "cy"},
        ),
        (
            "INFO",
            "unschedule: task 'template', instance 'x', by 'dee'",
            {"action": "unschedule", "task": "template", "instance": "x", "by": "dee"},
        ),
        ("INFO", "pause: task 'static'", {"action": "pause", "task": "static"}),
    ]


def test_many_at_once_are_one_line_with_their_number(app, clock, template, audited):
    async def main():
        async with app.create() as context:
            await context.schedule_tasks(template, (Instance(name=str(n), interval=HOUR) for n in range(1000)), by="ann")
            await context.schedule_tasks(template, [], by="ann")

    clock.run(main())
    assert [(message, fields["count"]) for _, message, fields in audited()] == [
        ("schedule: task 'template', count 1000, by 'ann'", 1000)
    ]


def test_what_a_program_does_by_the_thousand_is_told_only_to_those_who_debug(app, clock, template, audited):
    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await context.unschedule_task(template, "x")

    clock.run(main())
    assert [(level, fields["action"]) for level, _, fields in audited()] == [("DEBUG", "schedule"), ("DEBUG", "unschedule")]


def test_what_changed_nothing_is_not_told(app, clock, template, audited):
    async def main():
        async with app.create() as context:
            assert not await context.pause_task(template, "x", by="ann", note="why")
            assert not await context.resume_task(template, "x", by="ann")
            assert not await context.unschedule_task(template, "x", by="ann")
            with pytest.raises(ConfigurationError):
                await context.schedule_task(template, "x", by="ann")

    clock.run(main())
    assert audited() == []


@pytest.mark.parametrize("value", [1, b"ann", ["ann"]])
def test_who_did_it_is_a_text(app, clock, template, value):
    async def main():
        async with app.create() as context:
            for call in (context.pause_task, context.resume_task, context.unschedule_task):
                with pytest.raises(ConfigurationError, match="The by is .*; pass a str"):
                    await call(template, "x", by=value)
            with pytest.raises(ConfigurationError, match="The by is"):
                await context.schedule_task(template, "x", interval=HOUR, by=value)
            with pytest.raises(ConfigurationError, match="The note is"):
                await context.pause_task(template, "x", note=value)

    clock.run(main())


def test_a_pause_says_why_and_by_whom_until_it_ends(app, clock, template):
    async def main():
        async with app.create() as context:
            await context.schedule_task(template, "x", interval=HOUR)
            assert (await context.get_task(template, "x")).note is None
            await context.pause_task(template, "x", note="\ud800 migration", by="ann")
            expected = Note(text="\\ud800 migration", by="ann", at=START)
            assert (await context.get_task(template, "x")).note == expected
            await clock.advance(SECOND)
            await context.pause_task(template, "x")
            assert (await context.get_task(template, "x")).note == expected, "who paused it first did"
            await context.pause_task(template, "x", note="for longer")
            assert (await context.get_task(template, "x")).note == Note(text="for longer", by=None, at=START + SECOND)
            await context.schedule_task(template, "x", interval=SECOND, force=True)
            assert (await context.get_task(template, "x")).note is not None, "a new schedule leaves it paused"
            await context.resume_task(template, "x")
            assert (await context.get_task(template, "x")).note is None

    clock.run(main())


def test_a_pause_keeps_what_was_remembered_of_runs(app, clock):
    @app.dynamic_task()
    async def template(context): ...

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", interval=HOUR)
            await clock.advance(HOUR + SECOND)
            before = (await context.get_task(template, "x")).last_run
            await context.pause_task(template, "x", note="why")
            paused = await context.get_task(template, "x")
            await context.resume_task(template, "x")
            after = await context.get_task(template, "x")
        assert before.outcome is RunOutcome.SUCCEEDED
        assert paused.state is State.PAUSED
        assert before == paused.last_run == after.last_run

    clock.run(main())


def test_a_run_that_ended_while_the_task_was_paused_is_not_taken_for_one_whose_worker_died(clock):
    app, ran = Pyncette(clock=clock), []

    @app.dynamic_task(max_attempts=2)
    async def template(context):
        ran.append(context.attempt)
        if len(ran) == 1:
            await context.app_context.pause_task(context.task, note="while it runs")
        raise ValueError

    async def main():
        async with running(app) as context:
            await context.schedule_task(template, "x", execute_at=clock.now())
            await clock.advance(SECOND)
            await context.resume_task(template, "x")
            assert (await context.get_task(template, "x")).last_run is None
            await clock.advance(200 * SECOND)
            task = await context.get_task(template, "x")
        assert ran == [1, 2]
        assert task.failures == 1, "nobody knows of the first"
        assert task.last_run.outcome is RunOutcome.GIVEN_UP

    clock.run(main())
