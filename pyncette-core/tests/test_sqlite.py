"""What is SQLite's own; the contract itself is the conformance suite's."""

import asyncio
import contextlib
import gc
import inspect
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

import pytest

from pyncette import Pyncette
from pyncette.backends import from_url
from pyncette.errors import ConfigurationError, RepositoryError, StoreMissingError, TransientRepositoryError
from pyncette.repository import ClaimResult, Commit, Extend, Fail, Key, Outcome, Registration, Release, State, Target
from pyncette.sqlite import schema, sqlite_repository
from pyncette.store import lifecycle, sqlite, sqlite_rows

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def registration(name, at=NOW, *, partition="p", spec="{}", schedule="s"):
    return Registration(Key(partition, name), spec, schedule, Target(at, at))


def claim(repository, now=NOW, *, limit=100, names=None):
    return repository.claim(now, "p", lease_duration=MINUTE, limit=limit, names=names)


def advanced(claims):
    return [Commit(each, Target(each.occurrence + MINUTE, each.occurrence + MINUTE)) for each in claims]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "tasks.db")


@contextlib.contextmanager
def locked(path):
    """Another connection that is writing."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield db
        if db.in_transaction:
            db.execute("ROLLBACK")


def worker(script, *arguments):
    """A process that runs the body of an async function, with the repository of its first argument as ``repository``."""
    helpers = "\n".join(inspect.getsource(each) for each in (registration, claim, advanced))
    program = f"""
import asyncio, sys
from datetime import UTC, datetime, timedelta
from pyncette import lifecycle
from pyncette.repository import Commit, Key, Outcome, Registration, Target
from pyncette.sqlite import sqlite_repository
from pyncette.store.sqlite_rows import PUT, encode
NOW, MINUTE = datetime.fromisoformat({NOW.isoformat()!r}), timedelta(minutes=1)
{helpers}
async def main():
    sys.stdin.readline()
    async with sqlite_repository(sqlite_database=sys.argv[1]) as repository:
{textwrap.indent(script.strip(), " " * 8)}
asyncio.run(main())
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def start_together(workers):
    for each in workers:
        each.stdin.write("\n")
        each.stdin.flush()


class TestProcesses:
    def test_several_start_at_once_on_an_empty_file_and_no_row_is_lost_or_claimed_twice(self, path):  # I2, I3
        script = """
await repository.register(NOW, [registration(f"{sys.argv[2]}-{i}") for i in range(10)])
while (result := await claim(repository, limit=7)).claims:
    print(*(each.key.name for each in result.claims))
"""
        # Twenty whole applications do so in test_processes.py.
        workers = [worker(script, path, str(i)) for i in range(8)]
        start_together(workers)
        claimed = [name for each in workers for name in each.communicate(timeout=60)[0].split()]
        assert [each.returncode for each in workers] == [0] * 8
        assert sorted(claimed) == sorted(f"{i}-{j}" for i in range(8) for j in range(10))

    def test_claims_and_settlements_of_several_processes_advance_every_occurrence_once(self, path):  # I2, I5
        async def prepare():
            async with sqlite_repository(sqlite_database=path) as repository:
                await repository.register(NOW, [registration(str(i), NOW - 3 * MINUTE) for i in range(100)])

        asyncio.run(prepare())
        script = """
while (result := await claim(repository, limit=9)).claims:
    outcomes = await repository.settle(NOW, advanced(result.claims))
    assert set(outcomes) == {Outcome.APPLIED}
    print(*(f"{each.key.name}@{each.occurrence:%H:%M}" for each in result.claims))
"""
        workers = [worker(script, path) for _ in range(4)]
        start_together(workers)
        runs = [run for each in workers for run in each.communicate(timeout=60)[0].split()]
        assert [each.returncode for each in workers] == [0] * 4
        assert sorted(runs) == sorted(f"{i}@{at}" for i in range(100) for at in ("11:57", "11:58", "11:59", "12:00"))

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
    def test_kill_9_amid_a_transaction_keeps_what_was_acknowledged_and_blocks_nobody(self, path):  # I3
        script = """
await repository.register(NOW, [registration("acknowledged")])
def write(db):
    with repository._connection.transaction(db):
        db.execute(repository._sql[PUT], encode(lifecycle.register(None, NOW, registration("lost"))))
        print("amid", flush=True)
        sys.stdin.readline()
await repository._connection.run(write)
"""
        process = worker(script, path)
        start_together([process])
        assert process.stdout.readline() == "amid\n"
        process.kill()
        process.communicate()

        async def look():
            async with sqlite_repository(sqlite_database=path) as repository:
                await repository.register(NOW, [registration("next")])
                return [
                    row and row.key.name for row in await repository.get([Key("p", n) for n in ("acknowledged", "lost", "next")])
                ]

        assert asyncio.run(look()) == ["acknowledged", None, "next"]

    def test_opening_and_closing_races_with_others_that_do_the_same(self, path):
        # The last to close removes the write-ahead log, the first to open makes it.
        script = """
for i in range(15):
    async with sqlite_repository(sqlite_database=sys.argv[2]) as other:
        await other.register(NOW, [registration(f"{sys.argv[3]}-{i}")])
"""
        workers = [worker(script, ":memory:", path, str(i)) for i in range(3)]
        start_together(workers)
        for each in workers:
            each.communicate(timeout=60)
        assert [each.returncode for each in workers] == [0] * 3
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM pyncette_tasks").fetchone() == (45,)


class TestLocking:
    def test_an_idle_poll_takes_no_write_lock_and_waits_for_none(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                later = NOW + MINUTE
                await repository.register(NOW, [registration("later", later), registration("latest", later + MINUTE)])
                with locked(path):
                    assert await claim(repository) == ClaimResult([], later)
                    assert await claim(repository, names=["absent", "latest"]) == ClaimResult([], later + MINUTE, ["absent"])
                    assert (await repository.stats(NOW, "p")).rows == 2
                    assert (await repository.get([Key("p", "later")]))[0].ready_at == later
                    # Nor does an empty batch.
                    await repository.register(NOW, [])
                    assert [*await repository.settle(NOW, []), *await repository.unregister(NOW, [])] == []

        asyncio.run(test())

    def test_a_write_waits_for_that_of_another_connection(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                tried = await traced(repository)
                with locked(path) as other:
                    writing = asyncio.create_task(repository.register(NOW, [registration("a")]))
                    while len(tried) < 3:
                        await asyncio.sleep(0)
                    assert not writing.done()
                    other.execute("COMMIT")
                    await writing
                assert (await claim(repository)).claims

        asyncio.run(test())

    def test_a_write_that_waits_too_long_is_a_transient_error_and_wrote_nothing(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path, sqlite_timeout=0.3) as repository:
                with locked(path):
                    with pytest.raises(TransientRepositoryError) as caught:
                        await repository.register(NOW, [registration("a")])
                    await repository.get([Key("p", "a")])  # behind the last try, which may only just have begun
                assert str(caught.value) == (
                    f"The SQLite database {path!r} was busy for 0.3 s; "
                    "find the connection that keeps it locked, or raise sqlite_timeout"
                )
            async with sqlite_repository(sqlite_database=path) as repository:
                assert await repository.get([Key("p", "a")]) == [None]

        asyncio.run(test())

    def test_the_timeout_also_bounds_the_wait_for_other_calls_of_the_same_repository(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path, sqlite_timeout=0.2) as repository:
                started = asyncio.get_running_loop().time()
                with locked(path):
                    writes = [repository.register(NOW, [registration(str(i))]) for i in range(50)]
                    reads = [repository.get([Key("p", str(i))]) for i in range(50)]
                    calls = [call for pair in zip(writes, reads, strict=True) for call in pair]
                    results = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(each) for each in results[::2]} == {TransientRepositoryError}
                assert asyncio.get_running_loop().time() - started < 5  # not fifty times as long

        asyncio.run(test())

    def test_a_disk_that_hangs_fails_all_calls_in_time_and_none_once_it_is_back(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path, sqlite_timeout=0.2) as repository:
                back = threading.Event()
                began = time.monotonic()
                calls = [repository.register(NOW, [registration(str(i))]) for i in range(50)]
                hanging = repository._connection.run(lambda db: back.wait(60))
                results = await asyncio.gather(hanging, *calls, return_exceptions=True)
                assert {type(each) for each in results} == {TransientRepositoryError}
                assert time.monotonic() - began < 5
                back.set()
                await repository.register(NOW, [registration("a")])
                assert [row.key.name for row in (await repository.list("p", limit=9)).rows] == ["a"]

        asyncio.run(test())

    @pytest.mark.parametrize("kind", ["reads", "writes"])
    def test_calls_that_get_on_do_not_fail_because_there_are_many(self, path, kind):
        async def test():
            async with sqlite_repository(sqlite_database=path, sqlite_timeout=0.5) as repository:

                def work(db):
                    with contextlib.nullcontext() if kind == "reads" else repository._connection.transaction(db):
                        time.sleep(0.03)  # a disk's time: the thread's clock is the real one

                began = time.monotonic()
                await asyncio.gather(*(repository._connection.run(work) for _ in range(40)))
                assert time.monotonic() - began > 2 * 0.5

        asyncio.run(test())

    @pytest.mark.parametrize("urgent", ["claim", "claim by name", "idle claim", "settle", "settle what was moved"])
    def test_claims_and_settlements_do_not_wait_for_all_the_others_that_wait(self, path, urgent):  # I7
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                await repository.register(NOW, [registration("held"), registration("due"), registration("later", NOW + MINUTE)])
                held = (await claim(repository, names=["held"])).claims
                if urgent == "settle what was moved":
                    await repository.register(NOW, [registration("held", schedule="another")])
                done = []

                async def register(name):
                    await repository.register(NOW, [registration(name)])
                    await repository.get([Key("p", name)])
                    done.append(name)

                others = [asyncio.create_task(register(str(i))) for i in range(300)]
                await asyncio.sleep(0)
                await CALLS[urgent.removesuffix(" what was moved")](repository, held)
                assert len(done) < 5
                await asyncio.gather(*others)

        asyncio.run(test())

    def test_counting_many_rows_holds_up_nothing_else(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                await repository.register(NOW, [registration("a")])
                counted = threading.Event()
                before = asyncio.create_task(repository._counting.run(lambda db: counted.wait(60)))
                counting = asyncio.create_task(repository.stats(NOW, "p"))
                claims = (await claim(repository)).claims
                assert await repository.settle(NOW, advanced(claims)) == [Outcome.APPLIED]
                assert not counting.done()
                counted.set()
                assert ((await counting).rows, await before) == (1, True)

        asyncio.run(test())

    def test_a_transaction_that_reads_first_is_never_refused_because_another_has_written_since(self, path):
        async def work(repository, done):
            while result := (await claim(repository, limit=3)).claims:
                assert set(await repository.settle(NOW, [Commit(each, None) for each in result])) == {Outcome.APPLIED}
                done += [each.key.name for each in result]

        async def test():
            async with sqlite_repository(sqlite_database=path) as one, sqlite_repository(sqlite_database=path) as other:
                await one.register(NOW, [registration(str(i)) for i in range(60)])
                done = []
                await asyncio.gather(*(work(repository, done) for repository in (one, other, one, other)))
                assert sorted(done, key=int) == [str(i) for i in range(60)]  # I2, I8

        asyncio.run(test())

    def test_a_reader_that_stays_blocks_no_writer(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
                    reader.execute("BEGIN")
                    reader.execute("SELECT * FROM pyncette_tasks").fetchall()
                    await repository.register(NOW, [registration("a")])
                    assert len((await claim(repository)).claims) == 1

        asyncio.run(test())

    def test_concurrent_calls_of_one_repository_never_see_each_other_half_way(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                keys = [Key("p", str(i)) for i in range(20)]

                async def write(spec):
                    await repository.register(NOW, [registration(key.name, spec=spec) for key in keys])

                async def read():
                    return {row and row.spec for row in await repository.get(keys)}

                seen = await asyncio.gather(*(call for i in range(10) for call in (write(str(i)), read())))
                assert all(len(each) == 1 for each in seen if each is not None)

        asyncio.run(test())


async def traced(repository):
    """The statements that SQLite runs from now on."""
    statements = []
    await repository._connection.run(lambda db: db.set_trace_callback(statements.append))
    return statements


@contextlib.contextmanager
def hops(repository):
    """What is done in the thread from now on, each time that something is."""
    connection, seen = repository._connection, []
    in_thread = connection._in_thread

    def counted(db, work):
        seen.append(work)
        return in_thread(db, work)

    connection._in_thread = counted
    yield seen
    connection._in_thread = in_thread


class TestStatements:
    """The cost of a call, whatever the size of its batch."""

    async def cost(self, path, size, *calls):
        """Of each call, made one after the other: the hops to the thread, and the statements, each once however many rows it has."""
        costs = []
        async with sqlite_repository(sqlite_database=f"{path}-{size}") as repository:
            run = await traced(repository)
            result = None
            for call in calls:
                run.clear()
                with hops(repository) as seen:
                    result = await call(repository, [f"{i:03}" for i in range(size)], result)
                costs.append((len(seen), [statement for statement, _ in groupby(" ".join(each.split()[:2]) for each in run)]))
                assert not isinstance(result, ClaimResult) or len(result.claims) in (0, size)
        return costs

    def test_neither_its_hops_to_the_thread_nor_its_statements_grow_with_the_batch(self, path):
        calls = [
            lambda it, names, _: it.register(NOW, [registration(name) for name in names]),
            lambda it, names, _: claim(it, limit=len(names)),
            lambda it, names, taken: it.settle(NOW, advanced(taken.claims)),
            lambda it, names, _: claim(it, NOW + MINUTE, limit=len(names) + 1, names=names),
            lambda it, names, taken: it.settle(NOW + MINUTE, [Release(each, NOW) for each in taken.claims]),
            lambda it, names, _: claim(it, NOW + MINUTE, limit=len(names)),
            lambda it, names, taken: it.settle(NOW + MINUTE, [Commit(each, None) for each in taken.claims]),
            lambda it, names, _: it.claim(NOW, "p", lease_duration=MINUTE, limit=9),
            lambda it, names, _: it.get([Key("p", name) for name in names]),
        ]

        async def test():
            few, many = await self.cost(path, 2, *calls), await self.cost(path, 200, *calls)
            assert few == many
            assert [(hops, len(statements)) for hops, statements in few] == [
                (1, 4),  # begin, select, insert, commit
                (1, 6),  # look, begin, select, update, what is next, commit
                (1, 3),  # begin, update, commit
                (1, 5),
                (1, 3),
                (1, 6),
                (1, 3),
                (1, 1),
                (1, 1),
            ]

        asyncio.run(test())

    def test_arguments_are_not_sent_to_claim_and_neither_read_nor_sent_to_settle(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                names = ["advanced", "released", "removed"]
                await repository.register(NOW, [registration(name, spec='"MARK"') for name in names])
                run = await traced(repository)
                first, second, third = (await claim(repository)).claims
                assert {each.spec for each in (first, second, third)} == {'"MARK"'}
                assert not [each for each in run if "MARK" in each or ("spec" in each and not each.startswith("SELECT"))]
                run.clear()
                await repository.settle(NOW, [*advanced([first]), Release(second, NOW), Commit(third, None)])
                assert [each for each in run if each.startswith("UPDATE")]
                assert not [each for each in run if "spec" in each or "MARK" in each or "SELECT" in each]

        asyncio.run(test())

    def test_registering_what_is_stored_already_writes_nothing(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                await repository.register(NOW, [registration("a")])
                run = await traced(repository)
                await repository.register(NOW, [registration("a")])
                assert [each.split()[0] for each in run] == ["BEGIN", "SELECT", "COMMIT"]

        asyncio.run(test())

    def test_every_search_goes_through_an_index_and_none_sorts(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                plans = {}
                for name in ("PEEK", "TAKE", "NEXT", "PEEK_NAMED", "TAKE_NAMED", "ROWS", "DELETE", "LIST", "STATS", "PARTITIONS"):
                    statement = getattr(sqlite_rows, name)
                    values = {"partition": "p", "now": 1, "limit": 2, "names": "[]"}
                    parameters = values if ":" in statement else ("[]",) * statement.count("?")
                    rows = await repository._fetch(f"EXPLAIN QUERY PLAN {statement}", parameters)
                    plans[name] = [detail for *_, detail in rows]
            for name, plan in plans.items():
                assert not [step for step in plan if "TEMP B-TREE" in step or step.startswith("SCAN pyncette_tasks")], (name, plan)
            assert "SEARCH pyncette_tasks USING COVERING INDEX pyncette_tasks_ready (partition=? AND ready_at" in str(
                plans["STATS"]
            )
            for name in ("PEEK", "TAKE", "NEXT"):
                assert "INDEX pyncette_tasks_ready (partition=? AND ready_at" in str(plans[name]), plans[name]
            for name in ("PEEK_NAMED", "TAKE_NAMED", "ROWS", "DELETE"):
                assert "INDEX sqlite_autoindex_pyncette_tasks_1 (partition=? AND name=?)" in str(plans[name]), plans[name]

        asyncio.run(test())


def assert_threads_end():
    """A thread that outlives its connection keeps the interpreter from exiting."""
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        thread.join(10)
        assert not thread.is_alive()


async def interrupted(coroutine, cancellations):
    """Run a coroutine; ``cancellations`` maps its n-th suspension to when it is cancelled there.

    ``"sent"``: what it waits for has been handed over; ``"done"``: it has happened, but the coroutine does not know yet.
    """
    return await _interrupted(coroutine, cancellations)


@types.coroutine
def _interrupted(coroutine, cancellations):
    task = asyncio.current_task()
    suspensions, resume = 0, lambda: coroutine.send(None)
    while True:
        try:
            awaited = resume()
        except StopIteration as stop:
            return stop.value
        suspensions += 1
        when = cancellations.pop(suspensions, None)
        if when == "sent":
            task.cancel()
        elif when == "done" and awaited is not None:
            awaited.add_done_callback(lambda _: task.cancel())
        try:
            value = yield awaited
        except BaseException as error:
            resume = lambda error=error: coroutine.throw(error)  # noqa: E731
        else:
            resume = lambda value=value: coroutine.send(value)  # noqa: E731


def every_cancellation():
    """All the ways to cancel once, and twice in close succession."""
    for first in range(1, 100):
        for when in ("sent", "done"):
            yield first, {first: when}
            yield first, {first: when, first + 1: "sent"}
            yield first, {first: when, first + 1: "done", first + 2: "sent"}


CALLS = {
    "register": lambda repository, held: repository.register(NOW, [registration("new"), registration("due", spec="[]")]),
    "unregister": lambda repository, held: repository.unregister(NOW, [Key("p", "due"), Key("p", "held")]),
    "claim": lambda repository, held: claim(repository),
    "claim by name": lambda repository, held: claim(repository, names=["due", "later"]),
    "idle claim": lambda repository, held: claim(repository, NOW - MINUTE),
    "settle": lambda repository, held: repository.settle(NOW, advanced(held)),
    "get": lambda repository, held: repository.get([Key("p", "due")]),
    "list": lambda repository, held: repository.list("p", limit=1),
    "stats": lambda repository, held: repository.stats(NOW, "p"),
    "partitions": lambda repository, held: repository.partitions(),
    "pause": lambda repository, held: repository.pause(NOW, [Key("p", "due")]),
    "resume": lambda repository, held: repository.resume(NOW, [Key("p", "due")]),
}


class TestCancellation:  # I14
    @pytest.mark.parametrize("call", CALLS)
    def test_at_any_await_leaves_no_transaction_no_lock_and_no_half_written_batch(self, path, call):
        async def state(repository):
            """What is stored, without what is drawn at random."""
            rows = (await repository.list("p", limit=100)).rows
            return [row._replace(lease=row.lease and "some", epoch=0) for row in rows]

        async def prepared(repository):
            await repository.unregister(NOW, [row.key for row in (await repository.list("p", limit=100)).rows])
            await repository.register(NOW, [registration("held"), registration("due"), registration("later", NOW + MINUTE)])
            return (await claim(repository, names=["held"])).claims

        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                held = await prepared(repository)
                before = await state(repository)
                await CALLS[call](repository, held)
                after = await state(repository)
                cancelled = 0
                for first, cancellations in every_cancellation():
                    held = await prepared(repository)
                    left = dict(cancellations)
                    task = asyncio.create_task(interrupted(CALLS[call](repository, held), left))
                    done = (await asyncio.gather(task, return_exceptions=True))[0]
                    assert isinstance(done, asyncio.CancelledError) or not isinstance(done, BaseException)
                    assert not repository._connection._turn.locked()
                    assert await state(repository) in (before, after)
                    with locked(path):  # and nothing is: the repository has no transaction open
                        pass
                    if first in left:
                        break
                    cancelled += 1
                assert cancelled >= 6

        asyncio.run(test())

    def test_while_opening_leaves_no_thread_and_no_connection(self, path):
        async def use():
            async with sqlite_repository(sqlite_database=path) as repository:
                await repository.register(NOW, [registration("a")])

        async def test():
            for first, cancellations in every_cancellation():
                left = dict(cancellations)
                task = asyncio.create_task(interrupted(use(), left))
                await asyncio.wait([task])
                assert task.cancelled() or task.exception() is None
                del task
                gc.collect()  # a traceback keeps the cursor of the last statement, and that the connection
                assert_threads_end()
                with contextlib.closing(sqlite3.connect(path, timeout=0)) as db:
                    db.execute("PRAGMA locking_mode = EXCLUSIVE")
                    db.execute("CREATE TABLE IF NOT EXISTS alone (x)")
                if first in left:
                    break

        gc.freeze()  # or each collection looks at all that the tests before have left
        try:
            asyncio.run(test())
        finally:
            gc.unfreeze()

    def test_of_a_write_that_waits_for_another_connection_comes_at_once(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path, sqlite_timeout=60) as repository:
                tried = await traced(repository)
                with locked(path):
                    writing = asyncio.create_task(repository.register(NOW, [registration("a")]))
                    while not tried:
                        await asyncio.sleep(0)
                    writing.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await asyncio.wait_for(asyncio.shield(writing), 5)
                    assert await repository.get([Key("p", "a")]) == [None]

        asyncio.run(test())

    def test_of_closing_still_closes_after_the_call_that_has_its_turn(self, path):
        async def test():
            context = sqlite_repository(sqlite_database=path, sqlite_timeout=60)
            repository = await context.__aenter__()
            tried = await traced(repository)
            with locked(path):
                writing = asyncio.create_task(repository.register(NOW, [registration("a")]))
                while not tried:
                    await asyncio.sleep(0)
                closing = asyncio.create_task(context.__aexit__(None, None, None))
                while not repository._connection._closed:
                    await asyncio.sleep(0)
                closing.cancel()
                done = await asyncio.gather(writing, closing, return_exceptions=True)
            assert [type(each) for each in done] == [RepositoryError, asyncio.CancelledError]
            assert_threads_end()

        asyncio.run(test())

    @pytest.mark.parametrize("phase", ["opening", "closing"])
    def test_of_all_tasks_as_at_the_end_of_a_loop_leaves_no_thread(self, path, phase):
        async def test():
            for steps in range(1, 9):
                context = sqlite_repository(sqlite_database=path)
                if phase == "closing":
                    await context.__aenter__()
                asyncio.create_task(context.__aenter__() if phase == "opening" else context.__aexit__(None, None, None))
                for _ in range(steps):
                    await asyncio.sleep(0)
                tasks = asyncio.all_tasks() - {asyncio.current_task()}
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if phase == "opening":
                    with contextlib.suppress(RuntimeError):  # it has come to its end already
                        await context.__aexit__(None, None, None)
                assert_threads_end()

        asyncio.run(test())


class TestWrongFiles:
    def refused(self, expected=RepositoryError, **options):
        async def test():
            with pytest.raises(expected) as caught:
                async with sqlite_repository(**options):
                    pass
            assert_threads_end()
            assert type(caught.value) is expected
            return str(caught.value)

        return asyncio.run(test())

    def test_one_that_is_no_database(self, path):
        Path(path).write_text("Just some text, long enough to be taken for a header. " * 20)
        assert self.refused(sqlite_database=path) == (
            f"The SQLite database {path!r} is not a SQLite database; choose another file (file is not a database)"
        )

    @pytest.mark.parametrize("where", ["missing/tasks.db", "."])
    def test_one_that_cannot_be_opened(self, tmp_path, where):
        path = str(tmp_path / where)
        assert self.refused(sqlite_database=path) == (
            f"The SQLite database {path!r} can't be opened; check that its directory exists, that it is a file, "
            "and the permissions of both (unable to open database file)"
        )

    @pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs the permissions of POSIX")
    def test_one_that_is_read_only(self):
        async def create(path):
            async with sqlite_repository(sqlite_database=path):
                pass

        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "tasks.db")
            asyncio.run(create(path))
            os.chmod(path, 0o444)
            os.chmod(directory, 0o555)
            root = os.geteuid() == 0
            if root:  # whom permissions don't stop
                os.seteuid(65534)
            try:
                message = self.refused(sqlite_database=path)
            finally:
                if root:
                    os.seteuid(0)
                os.chmod(directory, 0o755)
        assert message.startswith(f"The SQLite database {path!r} can't be ")
        assert "check" in message
        assert "\n" not in message

    def test_one_that_has_another_table_of_this_name(self, path):
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        assert self.refused(sqlite_database=path, sqlite_table_name="users") == (
            f"The table 'users' in {path!r} is not one of Pyncette's (no such column: partition); choose another sqlite_table_name"
        )
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]

    @pytest.mark.parametrize("skip", [False, True])
    def test_one_of_pyncette_1_is_recognised_and_left_as_it_is(self, path, skip):
        with contextlib.closing(sqlite3.connect(path)) as db:
            columns = "name PRIMARY KEY, parent_name, locked_until timestamp, locked_by, execute_after timestamp, task_spec"
            db.execute(f"CREATE TABLE pyncette_tasks ({columns})")
        before = Path(path).read_bytes()
        assert self.refused(sqlite_database=path, sqlite_skip_table_create=skip) == (
            f"The table 'pyncette_tasks' in {path!r} belongs to Pyncette 1, whose tasks can't be read; "
            "choose another sqlite_table_name, and schedule them again"
        )
        assert Path(path).read_bytes() == before

    def test_one_whose_table_lacks_our_key(self, path):
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute(schema("tasks")[0].replace("PRIMARY KEY", "CHECK").replace("(partition, name)", "(1)"))
        assert "ON CONFLICT clause does not match" in self.refused(sqlite_database=path, sqlite_table_name="tasks")

    def test_one_that_is_damaged(self, path):
        async def create():
            async with sqlite_repository(sqlite_database=path) as repository:
                await repository.register(NOW, [registration(str(i)) for i in range(200)])

        async def use():
            async with sqlite_repository(sqlite_database=path) as repository:
                while (await claim(repository)).claims:
                    pass

        asyncio.run(create())
        with open(path, "r+b") as file:
            file.seek(2 * 4096)
            file.write(b"\xff" * (os.path.getsize(path) - 2 * 4096))
        with pytest.raises(RepositoryError) as caught:
            asyncio.run(use())
        assert str(caught.value) == (
            f"The SQLite database {path!r} is damaged; restore it from a backup (database disk image is malformed)"
        )

    @pytest.mark.parametrize("version", ["junk", b"\xff", 1.5])
    def test_one_whose_format_is_damaged(self, path, version):
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            for statement in schema("pyncette_tasks"):
                db.execute(statement)
            db.execute("UPDATE pyncette_tasks_format SET version = ?", (version,))
        assert f"has the stored format {version!r}, but" in self.refused(sqlite_database=path)

    def test_one_of_a_newer_format(self, path):
        async def create():
            async with sqlite_repository(sqlite_database=path):
                pass

        asyncio.run(create())
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE pyncette_tasks_format SET version = 7")
        assert self.refused(sqlite_database=path) == (
            f"The table 'pyncette_tasks' in {path!r} has the stored format 7, but this Pyncette knows only 1; upgrade pyncette-core"
        )

    def test_one_that_does_not_exist_when_creating_it_is_skipped(self, path):
        assert self.refused(StoreMissingError, sqlite_database=path, sqlite_skip_table_create=True) == (
            f"There is no SQLite database {path!r} yet; the application creates it when it first runs"
        )
        assert not os.path.exists(path)

    @pytest.mark.parametrize("table", ["pyncette_tasks", "pyncette_tasks_format"])
    def test_one_without_the_table_when_creating_it_is_skipped(self, path, table):
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            for statement in schema("pyncette_tasks"):
                db.execute(statement)
            db.execute(f"DROP TABLE {table}")
        before = Path(path).read_bytes()
        message = self.refused(StoreMissingError, sqlite_database=path, sqlite_skip_table_create=True)
        assert message == (
            f"There is no table 'pyncette_tasks' in {path!r} (no such table: {table}); let the application create it"
        )
        assert Path(path).read_bytes() == before

    def test_an_empty_one_when_creating_is_skipped(self, path):
        Path(path).touch()
        self.refused(StoreMissingError, sqlite_database=path, sqlite_skip_table_create=True)
        assert os.path.getsize(path) == 0

    @pytest.mark.parametrize("name", ["", "a\0b", "sqlite_tasks", "SQLite_x"])
    def test_no_table_can_be_called_so(self, name):
        assert repr(name) in self.refused(ConfigurationError, sqlite_database=":memory:", sqlite_table_name=name)

    @pytest.mark.parametrize("database", ["", "a\0b"])
    def test_no_file_can_be_called_so(self, database):
        assert repr(database) in self.refused(ConfigurationError, sqlite_database=database)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan")])
    def test_no_call_can_end_in_no_time(self, timeout):
        assert self.refused(ConfigurationError, sqlite_database=":memory:", sqlite_timeout=timeout) == (
            f"sqlite_timeout={timeout!r} is not a number of seconds above 0"
        )


@pytest.mark.skipif(os.name != "posix", reason="needs the permissions of POSIX")
class TestPermissions:
    @pytest.fixture
    def everybody(self):
        before = os.umask(0)
        yield
        os.umask(before)

    def modes(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                await repository.register(NOW, [registration("a", spec="secret")])
                return {
                    name: oct(os.stat(os.path.join(os.path.dirname(path), name)).st_mode & 0o777)
                    for name in os.listdir(os.path.dirname(path))
                }

        return asyncio.run(test())

    def test_a_new_file_and_what_belongs_to_it_are_for_their_owner_alone(self, everybody, path):
        assert self.modes(path) == dict.fromkeys(["tasks.db", "tasks.db-wal", "tasks.db-shm"], "0o600")

    def test_so_is_one_that_a_link_leads_to(self, everybody, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "link.db").symlink_to(tmp_path / "a" / "tasks.db")
        assert set(self.modes(str(tmp_path / "a" / "link.db")).values()) == {"0o600"}

    def test_one_that_is_there_keeps_its_mode(self, everybody, path):
        Path(path).touch()
        os.chmod(path, 0o640)
        assert set(self.modes(path).values()) == {"0o640"}

    def test_opening_it_again_takes_no_lock_from_another_connection_of_the_process(self, path):
        # A POSIX lock is the process's: whoever closes any descriptor of the file gives up all of them.
        async def test():
            async with sqlite_repository(sqlite_database=path) as one:
                await one._fetch("BEGIN IMMEDIATE")
                async with sqlite_repository(sqlite_database=path, sqlite_skip_table_create=True):
                    pass
                program = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
                other = subprocess.run([sys.executable, "-c", program, path], check=False, capture_output=True, text=True)
                assert "database is locked" in other.stderr

        asyncio.run(test())


class TestTables:
    @pytest.mark.parametrize("name", ["select", 'quo"ted', "it's", "naïve 表 🗓", "a b", "{table}", "x;--", "%s", "?", "[x]", "`"])
    def test_any_legal_name_will_do(self, path, name):
        async def test():
            for skip in (False, True):
                async with sqlite_repository(sqlite_database=path, sqlite_table_name=name, sqlite_skip_table_create=skip) as it:
                    await it.register(NOW, [registration("a"), registration("b")])
                    claims = (await claim(it)).claims
                    assert await it.settle(NOW, [Commit(each, None) for each in claims]) == [Outcome.APPLIED] * 2
                    assert await it.partitions() == []

        asyncio.run(test())
        with contextlib.closing(sqlite3.connect(path)) as db:
            tables = {table for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            assert tables == {name, f"{name}_format", f"{name}_history"}

    def test_two_in_one_file_share_nothing(self, path):
        async def test():
            async with (
                sqlite_repository(sqlite_database=path, sqlite_table_name="one") as one,
                sqlite_repository(sqlite_database=path, sqlite_table_name="two") as two,
            ):
                await one.register(NOW, [registration("a")])
                assert (await claim(two)).claims == []
                assert len((await claim(one)).claims) == 1

        asyncio.run(test())

    def test_the_application_the_file_belongs_to_keeps_its_version_and_its_tables(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path):
                pass

        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("PRAGMA user_version = 42")
            db.execute("PRAGMA application_id = 43")
            db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY)")
        asyncio.run(test())
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (42,)
            assert db.execute("PRAGMA application_id").fetchone() == (43,)
            assert db.execute("SELECT count(*) FROM users").fetchone() == (0,)

    def test_one_that_the_statements_of_the_schema_created_needs_no_right_to_create(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path, sqlite_skip_table_create=True) as repository:
                await repository.register(NOW, [registration("a")])

        with contextlib.closing(sqlite3.connect(path)) as db, db:
            for statement in schema("pyncette_tasks"):
                db.execute(statement)
        asyncio.run(test())

    def test_what_is_stored_is_pinned(self, path):
        # A change here is a change of the stored format: raise FORMAT, and read what older versions have written.
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                await repository.register(NOW, [registration("a", NOW + MINUTE, spec='{"x": 1}')])

        asyncio.run(test())
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.row_factory = sqlite3.Row
            [row] = db.execute("SELECT * FROM pyncette_tasks")
            assert dict(row) == {
                "partition": "p",
                "name": "a",
                "spec": '{"x": 1}',
                "schedule": "s",
                "occurrence": 1772366460123457,
                "execute_after": 1772366460123457,
                "ready_at": 1772366460123457,
                "lease": None,
                "locked_until": None,
                "epoch": 1772366400123457,
                "revision": 0,
                "attempt": 0,
                "state": "scheduled",
                "error": None,
                "memo": "",
            }
            assert tuple(*db.execute("SELECT version FROM pyncette_tasks_format")) == (1,)
            assert tuple(*db.execute("PRAGMA journal_mode")) == ("wal",)


class TestRows:
    def test_every_field_comes_back_as_it_was(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                rows = {}
                names = ["scheduled", "claimed", "failed", "released", "extended", "paused"]
                await repository.register(NOW, [registration(name, spec="s" * 70_000) for name in names])
                keys = [Key("p", name) for name in names]
                rows = [lifecycle.register(None, NOW, registration(name, spec="s" * 70_000)) for name in names]
                assert await repository.get(keys) == rows
                claims = (await claim(repository, names=names[1:5])).claims
                taken = [lifecycle.claim(row, NOW, MINUTE, claims[0].lease) for row in rows[1:5]]
                assert [row for row, _ in taken] == (await repository.get(keys))[1:5]
                assert [each for _, each in taken] == claims
                late = NOW + 2 * MINUTE
                settlements = [Fail(claims[1], "it\nbroke \0"), Release(claims[2], late), Extend(claims[3], late)]
                await repository.settle(NOW, settlements)
                await repository.pause(NOW, [keys[5]])
                rows[1] = taken[0][0]
                rows[2:5] = [lifecycle.settle(row, NOW, each)[0] for (row, _), each in zip(taken[1:], settlements, strict=True)]
                rows[5] = lifecycle.pause(rows[5])
            async with sqlite_repository(sqlite_database=path) as repository:
                assert await repository.get(keys) == rows
                assert rows[2].state is State.FAILED
                assert (await repository.stats(NOW, "p")).failed == 1

        asyncio.run(test())

    def test_names_come_back_as_they_were_and_are_told_apart(self, path):  # I13
        names = ["", " ", "a", "a ", "A", "á", "a\u0301", "a:b", '"', "'", "\\", "\\u0041", "\x01\x1f\x7f", "\n\r\t", "[]", "null"]
        names += ["🗓" * 250, "\u2028", "\ufeff", "\U0010ffff", "\ue000", "İ", "i̇", "ß", "ss", "%", "_", "*"]

        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                keys = [Key(partition, name) for partition in ("p", "a:", "") for name in names]
                await repository.register(NOW, [Registration(key, str(key), "s", Target(NOW, NOW)) for key in keys])
                assert [(row.key, row.spec) for row in await repository.get(keys)] == [(key, str(key)) for key in keys]
                assert (await claim(repository, names=["absent", *names])).missing == ["absent"]
                listed, token, page = [], None, None
                while page is None or token is not None:
                    page = await repository.list("p", limit=3, token=token)
                    listed += [row.key.name for row in page.rows]
                    token = page.token
                assert listed == sorted(names)
                assert sorted(await repository.partitions()) == ["", "a:", "p"]
                assert all(await repository.unregister(NOW, keys))
                assert await repository.partitions() == []

        asyncio.run(test())

    def test_what_has_no_encoding_is_refused_and_nothing_of_its_batch_is_written(self, path):  # I10
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                for bad in (registration("\ud800"), registration("b", spec="\ud800")):
                    with pytest.raises(RepositoryError, match="surrogates not allowed") as caught:
                        await repository.register(NOW, [registration("a"), bad])
                    assert not isinstance(caught.value, TransientRepositoryError)
                assert (await repository.list("p", limit=9)).rows == []

        asyncio.run(test())


class TestFaults:
    def test_a_full_disk_is_transient(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                [[pages]] = await repository._fetch("PRAGMA page_count")
                await repository._fetch(f"PRAGMA max_page_count = {pages + 1}")
                with pytest.raises(TransientRepositoryError) as caught:
                    await repository.register(NOW, [registration("a", spec="x" * 100_000)])
                assert str(caught.value) == (
                    f"The SQLite database {path!r} is full; free some space on its disk (database or disk is full)"
                )
                await repository._fetch("PRAGMA max_page_count = 100000")
                await repository.register(NOW, [registration("a", spec="x" * 100_000)])

        asyncio.run(test())

    def test_a_table_that_was_dropped_is_not(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                with contextlib.closing(sqlite3.connect(path)) as db:
                    db.execute("DROP TABLE pyncette_tasks")
                with pytest.raises(RepositoryError) as caught:
                    await repository.register(NOW, [registration("a")])
                assert type(caught.value) is StoreMissingError
                assert "(no such table: pyncette_tasks)" in str(caught.value)

        asyncio.run(test())

    def test_a_closed_repository_says_so(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                pass
            for call in CALLS.values():
                if call is not CALLS["settle"]:  # without claims it has nothing to do
                    with pytest.raises(RepositoryError) as caught:
                        await call(repository, [])
                    assert str(caught.value) == f"The repository of {path!r} is closed; use it within its context"

        asyncio.run(test())

    def test_closing_lets_the_call_that_writes_end_and_refuses_those_that_wait(self, path):
        async def test():
            begun, go_on = threading.Event(), threading.Event()
            context = sqlite_repository(sqlite_database=path)
            repository = await context.__aenter__()

            def write(db):
                with repository._connection.transaction(db):
                    begun.set()
                    go_on.wait(60)
                    row = lifecycle.register(None, NOW, registration("0"))
                    db.execute(repository._sql[sqlite_rows.PUT], sqlite_rows.encode(row))

            calls = [repository._connection.run(write), *(repository.register(NOW, [registration(name)]) for name in "12")]
            calls = [asyncio.create_task(call) for call in calls]
            await asyncio.to_thread(begun.wait)
            closing = asyncio.create_task(context.__aexit__(None, None, None))
            while not repository._connection._closed:
                await asyncio.sleep(0)
            go_on.set()
            await closing
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(each) for each in results] == [type(None), RepositoryError, RepositoryError]
            async with sqlite_repository(sqlite_database=path) as repository:
                assert [row.key.name for row in (await repository.list("p", limit=9)).rows] == ["0"]

        asyncio.run(test())


class TestMemory:
    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
    def test_is_shared_with_nobody_else(self, url):
        async def test():
            async with from_url(url)() as one, from_url(url)() as other:
                await one.register(NOW, [registration("a")])
                assert await other.get([Key("p", "a")]) == [None]
                return one.shared, other.shared

        assert asyncio.run(test()) == (False, False)

    def test_a_file_is_shared(self, path):
        async def test():
            async with sqlite_repository(sqlite_database=path) as repository:
                return repository.shared

        assert asyncio.run(test())

    def test_is_what_nobody_gets_by_forgetting_the_file(self):
        with pytest.raises(ConfigurationError, match="'sqlite_database' of the repository is missing; pass sqlite_database="):
            Pyncette(sqlite_table_name="tasks")


class TestURLs:
    @pytest.fixture(autouse=True)
    def _not_installed(self, monkeypatch):
        monkeypatch.setattr("pyncette.store.urls.load", {"sqlite": sqlite.backend}.__getitem__)

    @pytest.mark.parametrize(
        ("url", "database"),
        [
            ("sqlite://", ":memory:"),
            ("sqlite:///", ":memory:"),
            ("sqlite:///:memory:", ":memory:"),
            ("sqlite:///relative.db", "relative.db"),
            ("sqlite:///some/where%20else.db", "some/where else.db"),
            ("sqlite:////absolute/path.db", "/absolute/path.db"),
            ("sqlite:///C:/windows.db", "C:/windows.db"),
        ],
    )
    def test_name_a_file_as_in_sqlalchemy(self, url, database):
        assert from_url(url).keywords == {"sqlite_database": database}

    def test_take_the_options_of_the_factory(self):
        options = from_url("sqlite:///x.db?table_name=jobs&timeout=2.5&skip_table_create=yes").keywords
        assert options == {
            "sqlite_database": "x.db",
            "sqlite_table_name": "jobs",
            "sqlite_timeout": 2.5,
            "sqlite_skip_table_create": True,
        }

    @pytest.mark.parametrize("url", ["sqlite://tasks.db", "sqlite://host/tasks.db", "sqlite://user:secret@/tasks.db"])
    def test_have_no_host(self, url):
        with pytest.raises(ConfigurationError, match="has no host.*write sqlite:///relative/path.db") as caught:
            from_url(url)
        assert "secret" not in str(caught.value)

    def test_of_other_stores_load_no_driver(self):
        program = "import sys, pyncette, pyncette.memory, pyncette.backends; sys.exit('sqlite3' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
