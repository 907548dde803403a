"""What is DynamoDB's own; the contract itself is the conformance suite's."""

import asyncio
import contextlib
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from conftest import answer, failure

from pyncette.errors import RepositoryError
from pyncette.repository import ClaimResult, Commit, Entry, Extend, Fail, Key, Outcome, Position, Registration, Release, Target

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
FIRST = datetime(1, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


def registration(name, at=NOW, *, partition="p", spec="{}", schedule="s"):
    return Registration(Key(partition, name), spec, schedule, Target(at, at))


def claim(repository, now=NOW, *, partition="p", limit=100, names=None):
    return repository.claim(now, partition, lease_duration=MINUTE, limit=limit, names=names)


def advanced(claims):
    return [Commit(each, Target(each.occurrence + MINUTE, each.occurrence + MINUTE)) for each in claims]


def names_of(claims):
    return [each.key.name for each in claims]


def writes(wire):
    """How many items were written, or were to be."""
    return sum(
        len(body["Statements"]) if operation == "BatchExecuteStatement" else operation in ("PutItem", "UpdateItem", "DeleteItem")
        for operation, body in wire.sent
    )


class TestRequests:
    @pytest.mark.parametrize("size", [2, 100, 250])
    def test_rows_are_read_a_hundred_at_a_time_and_written_25_at_a_time(self, opened, wire, size):
        async def test():
            async with opened() as repository:
                names = [f"{i:03}" for i in range(size)]
                keys = [Key("p", name) for name in names]
                reads, writes = -(-size // 100), -(-size // 25)
                wire.sent.clear()
                await repository.register(NOW, [registration(name) for name in names])
                assert wire.counts() == {"BatchGetItem": reads, "BatchExecuteStatement": writes}
                assert all(await repository.get(keys))
                assert wire.counts() == {"BatchGetItem": reads}
                claims = (await claim(repository, limit=size)).claims
                # Until it is known that nobody else is at these rows, some are tried before the others.
                tried = {2: 1, 100: 5, 250: 11}[size]
                assert wire.counts() == {"Query": 2, "BatchExecuteStatement": tried}
                assert await repository.settle(NOW, advanced(claims)) == [Outcome.APPLIED] * size
                assert wire.counts() == {"BatchExecuteStatement": writes}
                assert names_of((await claim(repository, NOW + MINUTE, limit=size, names=names)).claims) == names
                assert wire.counts() == {"BatchGetItem": reads, "BatchExecuteStatement": tried}
                assert await repository.unregister(NOW, keys) == [True] * size
                assert wire.counts() == {"BatchGetItem": reads, "BatchExecuteStatement": writes}

        asyncio.run(test())

    def test_an_execution_in_a_backlog_costs_a_tenth_of_a_request_and_one_item_read_and_two_written(self, opened, wire):
        async def test():
            async with opened() as repository:
                await repository.register(NOW, [registration(f"{i:03}") for i in range(601)])
                await claim(repository)  # whatever is learned at first
                wire.sent.clear()
                executed = 0
                for _ in range(4):
                    claims = (await claim(repository)).claims
                    await repository.settle(NOW, [Commit(each, None) for each in claims])
                    executed += len(claims)
                assert (executed, len(wire.sent)) == (400, 4 * (1 + 4 + 4))
                assert sum(len(body["Statements"]) for operation, body in wire.sent if operation != "Query") == 2 * executed
                assert sum(body["Limit"] for operation, body in wire.sent if operation == "Query") == executed + 4
                assert sum(len(json.dumps(body)) for _, body in wire.sent) < 1200 * executed

        asyncio.run(test())

    def test_arguments_are_sent_once_whatever_happens_to_the_row(self, opened, wire):
        async def test():
            async with opened() as repository:
                await repository.register(NOW, [registration(name, spec='"arguments"') for name in "ab"])
                wire.sent.clear()
                claims = (await claim(repository)).claims
                await repository.settle(NOW, [Extend(claims[0], NOW + 2 * MINUTE), Fail(claims[1], "it broke")])
                await repository.settle(NOW, advanced(claims))
                await repository.pause(NOW, [Key("p", "a")])
                assert "arguments" not in json.dumps(wire.sent)

        asyncio.run(test())

    def test_one_row_takes_a_read_and_a_write(self, opened, wire):
        async def test():
            async with opened() as repository:
                wire.sent.clear()
                await repository.register(NOW, [registration("a")])
                assert wire.counts() == {"GetItem": 1, "PutItem": 1}

        asyncio.run(test())

    def test_an_idle_poll_is_one_and_writes_nothing(self, opened, wire):
        async def test():
            async with opened() as repository:
                await repository.register(NOW, [registration(name, NOW + MINUTE) for name in "ab"])
                wire.sent.clear()
                assert await claim(repository) == ClaimResult([], NOW + MINUTE, [], [])
                assert wire.counts() == {"Query": 1}
                assert await claim(repository, names=["a", "b", "c"]) == ClaimResult([], NOW + MINUTE, ["c"], [])
                assert wire.counts() == {"BatchGetItem": 1}

        asyncio.run(test())

    def test_what_changes_nothing_writes_nothing_and_an_empty_batch_is_none_at_all(self, opened, wire):
        async def test():
            async with opened() as repository:
                rows = [registration("a"), registration("b")]
                await repository.register(NOW, rows)
                wire.sent.clear()
                await repository.register(NOW, rows)
                assert wire.counts() == {"BatchGetItem": 1}
                await repository.register(NOW, [])
                assert [*await repository.settle(NOW, []), *await repository.unregister(NOW, []), *await repository.get([])] == []
                assert wire.counts() == {}

        asyncio.run(test())

    def test_all_reads_are_consistent_and_all_writes_conditional(self, opened, wire):
        async def test():
            async with opened() as repository:
                wire.sent.clear()
                await repository.register(NOW, [registration("a"), registration("b")])
                await repository.get([Key("p", "a")])
                await repository.list("p", limit=9)
                claims = (await claim(repository)).claims
                await repository.settle(NOW, [Commit(each, None) for each in claims])
                for operation, body in wire.sent:
                    if operation == "BatchExecuteStatement":
                        for each in body["Statements"]:
                            verb, guard = each["Statement"].split()[0], each["Statement"].partition('"task_id"=?')[2]
                            assert verb == "INSERT" or guard.startswith(" AND ")  # of an INSERT, that there is none yet
                    else:
                        for each in body.get("RequestItems", {"": body}).values():
                            assert each["ConsistentRead"] is True

        asyncio.run(test())


class TestStored:
    def test_the_history_is_pinned(self, opened, raw, table):
        async def test():
            async with opened(dynamodb_partition_prefix="a:%") as repository:
                await repository.append([Entry(Key("p:é", "é"), Position(NOW, "1-a"), NOW + MINUTE, '{"x": 1}')])

        asyncio.run(test())
        place, digest = "2026-03-01T12:00:00.123457Z#1-a", hashlib.sha256("é".encode()).hexdigest()[:32]
        [item] = [item for item in raw.scan(TableName=table)["Items"] if item["partition_id"]["S"] != "pyncette"]
        assert item == {
            "partition_id": {"S": "a%3A%25%history:p:é"},
            "task_id": {"S": place},
            "ready_at": {"S": f"{digest}#{place}"},
            "name": {"S": "é"},
            "text": {"S": '{"x": 1}'},
            "expires_at": {"S": "2026-03-01T12:01:00.123457Z"},
            "expires": {"N": "1772366461"},
        }
        ttl = raw.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        assert (ttl["TimeToLiveStatus"], ttl["AttributeName"]) == ("ENABLED", "expires")

    def test_what_is_stored_is_pinned(self, opened, raw, table):
        # A change here is a change of the stored format: raise FORMAT, and read what older versions have written.
        async def test():
            async with opened() as repository:
                rows = [registration("a", NOW + MINUTE, spec='{"x": "é/"}', schedule="*/5"), registration("b"), registration("c")]
                await repository.register(NOW, [*rows, registration("", partition="q:é")])
                held, failed = (await claim(repository, names=["b", "c"])).claims
                await repository.settle(NOW, [Fail(failed, "it broke")])
                await repository.pause(NOW, [Key("p", "a")], {Key("p", "a"): "a note"})
                return held.lease

        lease = asyncio.run(test())
        found = raw.scan(TableName=table)["Items"]
        items = {(item.pop("partition_id")["S"], item.pop("task_id")["S"]): item for item in found}
        assert items.pop(("pyncette", "format")) == {"format": {"N": "1"}}
        assert len({item.pop("version")["S"] for item in items.values()}) == 4
        at, until = "2026-03-01T12:00:00.123457Z", "2026-03-01T12:01:00.123457Z"
        epoch = str((NOW - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))
        claimed = str(int(epoch) + 1)

        def item(*, epoch, attempt="0", state="scheduled", at=at, spec="{}", schedule="s", **others):
            texts = {"occurrence": at, "execute_after": at, "state": state, "spec": spec, "schedule": schedule, **others}
            numbers = {"epoch": epoch, "revision": "0", "attempt": attempt}
            return {**{k: {"S": v} for k, v in texts.items()}, **{k: {"N": v} for k, v in numbers.items()}}

        assert items == {
            (":p", "a"): item(epoch=epoch, state="paused", memo="a note", at=until, spec='{"x": "é/"}', schedule="*/5"),
            (":p", "b"): item(epoch=claimed, attempt="1", ready_at=until, locked_until=until, lease=lease),
            (":p", "c"): item(epoch=claimed, attempt="1", state="failed", lease=lease, error="it broke"),
            (":q:é", "\0"): item(epoch=epoch, ready_at=at),
        }

    def test_the_table_is_paid_by_request_and_has_one_index(self, opened, raw, table):
        async def test():
            async with opened():
                pass

        asyncio.run(test())
        description = raw.describe_table(TableName=table)["Table"]
        assert description["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        assert {each["AttributeName"]: each["KeyType"] for each in description["KeySchema"]} == {
            "partition_id": "HASH",
            "task_id": "RANGE",
        }
        [index] = description["LocalSecondaryIndexes"]
        assert index["IndexName"] == "ready_at"
        assert {each["AttributeName"]: each["KeyType"] for each in index["KeySchema"]} == {
            "partition_id": "HASH",
            "ready_at": "RANGE",
        }
        assert index["Projection"] == {"ProjectionType": "ALL"}
        assert not description.get("GlobalSecondaryIndexes")

    @pytest.mark.parametrize("found", ["2", "10"])
    def test_another_format_is_refused_at_the_start(self, opened, raw, table, endpoint, found):
        async def start():
            async with opened():
                pass

        asyncio.run(start())
        raw.put_item(TableName=table, Item={"partition_id": {"S": "pyncette"}, "task_id": {"S": "format"}, "format": {"N": found}})
        with pytest.raises(RepositoryError) as caught:
            asyncio.run(start())
        assert str(caught.value) == (
            f"The table '{table}' in DynamoDB at {endpoint} has the stored format {found}, "
            "but this Pyncette knows only 1; upgrade pyncette-dynamodb"
        )

    def test_prefixes_share_nothing_wherever_their_colons_are(self, opened):
        keys = [("", "a:b:c"), ("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a:", "b:c"), ("", "pyncette")]

        async def test():
            for prefix, partition in keys:
                async with opened(dynamodb_partition_prefix=prefix) as repository:
                    assert (await claim(repository, partition=partition)).claims == []
                    await repository.register(NOW, [registration("x", partition=partition, spec=prefix)])
            for prefix, partition in keys:
                async with opened(dynamodb_partition_prefix=prefix) as repository:
                    [row] = (await repository.list(partition, limit=9)).rows
                    assert (row.key, row.spec) == (Key(partition, "x"), prefix)

        asyncio.run(test())

    def test_instants_of_all_years_are_exact_and_in_order(self, opened):
        async def test():
            async with opened() as repository:
                instants = [
                    FIRST,
                    FIRST.replace(microsecond=1),
                    FIRST.replace(year=999),
                    NOW,
                    NOW + timedelta(microseconds=1),
                    LAST,
                ]
                await repository.register(NOW, [registration(str(i), at) for i, at in enumerate(instants)])
                rows = await repository.get([Key("p", str(i)) for i in range(6)])
                assert [row.occurrence for row in rows] == [row.ready_at for row in rows] == instants
                assert names_of((await claim(repository, NOW, limit=3)).claims) == ["0", "1", "2"]
                assert names_of((await claim(repository, LAST, limit=2)).claims) == ["3", "4"]

        asyncio.run(test())


class TestSizes:
    def test_arguments_of_200_kb_come_back_and_larger_ones_are_refused_alone(self, opened):  # I10
        async def test():
            async with opened() as repository:
                largest = "é" * 100_000
                batch = [registration("a"), registration("long", spec="x" * 204_000), registration("b", spec=largest)]
                with pytest.raises(RepositoryError) as caught:
                    await repository.register(NOW, batch)
                assert str(caught.value) == (
                    "The task 'long' of 'p' takes 204,006 bytes with its arguments, but DynamoDB holds no more than 200,704; "
                    "store the arguments elsewhere, and pass their location"
                )
                claims = (await claim(repository)).claims
                assert sorted(names_of(claims)) == ["a", "b"]
                assert {each.key.name: each.spec for each in claims}["b"] == largest
                assert (
                    await repository.settle(NOW, [Fail(each, "!" * 2000, "?" * 1000) for each in claims]) == [Outcome.APPLIED] * 2
                )

        asyncio.run(test())

    def test_a_claim_and_a_listing_go_on_after_a_page_of_a_megabyte(self, opened, wire):
        async def test():
            async with opened() as repository:
                names = [f"{i:02}" for i in range(25)]
                await repository.register(NOW, [registration(name, spec=name * 60_000) for name in names])
                wire.sent.clear()
                result = await claim(repository, limit=24)
                assert len(result.claims) == 24
                assert result.next_ready_at == NOW
                assert all(each.spec == each.key.name * 60_000 for each in result.claims)
                assert wire.counts()["Query"] > 3
                listed, token, pages = [], None, 0
                while pages == 0 or token is not None:
                    page = await repository.list("p", limit=100, token=token)
                    listed += [row.key.name for row in page.rows]
                    token, pages = page.token, pages + 1
                assert (listed, pages > 1) == (names, True)

        asyncio.run(test())

    def test_a_read_of_more_than_16_mb_is_asked_for_again(self, opened, wire):
        async def test():
            async with opened() as repository:
                keys = [Key("p", str(i)) for i in range(95)]
                for batch in (keys[:50], keys[50:]):
                    await repository.register(NOW, [registration(key.name, spec="x" * 179_000) for key in batch])
                wire.sent.clear()
                assert [row.key for row in await repository.get(keys)] == keys
                assert wire.counts()["BatchGetItem"] > 1

        asyncio.run(test())

    @pytest.mark.parametrize("where", ["partition", "name", "spec"])
    def test_what_has_no_encoding_is_refused_alone(self, opened, where):  # I10
        async def test():
            async with opened() as repository:
                bad = {"partition": "p", "name": "x", "spec": "{}", where: "\ud800"}
                batch = [
                    registration("a"),
                    registration(bad["name"], partition=bad["partition"], spec=bad["spec"]),
                    registration("b"),
                ]
                with pytest.raises(RepositoryError) as caught:
                    await repository.register(NOW, batch)
                assert str(caught.value) == (
                    f"The task {bad['name']!r} of {bad['partition']!r} can't be stored as UTF-8 (surrogates not allowed)"
                )
                assert sorted(names_of((await claim(repository)).claims)) == ["a", "b"]

        asyncio.run(test())

    @pytest.mark.parametrize("kind", [lambda each: Fail(each, "\ud83d"), lambda each: Commit(each, Target(NOW, NOW), "\ud83d")])
    def test_what_is_told_of_a_run_and_has_no_encoding_is_refused(self, opened, kind):  # I10
        async def test():
            async with opened() as repository:
                await repository.register(NOW, [registration("a")])
                [claimed] = (await claim(repository)).claims
                with pytest.raises(RepositoryError, match="can't be stored as UTF-8"):
                    await repository.settle(NOW, [kind(claimed)])

        asyncio.run(test())


class TestTable:
    def test_twenty_that_start_at_once_without_a_table_all_come_up(self, opened):
        async def start(i):
            async with opened(dynamodb_timeout=60) as repository:  # it creates one table at a time
                await repository.register(NOW, [registration("same"), registration(f"own {i}")])

        async def test():
            await asyncio.gather(*(start(i) for i in range(20)))
            async with opened(dynamodb_skip_table_create=True) as repository:
                assert len((await claim(repository)).claims) == 21

        asyncio.run(test())

    def test_one_that_takes_its_time_to_be_created_is_waited_for(self, opened, wire):
        left = 4

        def creating(operation, body):
            nonlocal left
            left -= operation == "DescribeTable"
            return answer({"Table": {"TableStatus": "CREATING"}}) if left > 0 and operation == "DescribeTable" else None

        async def test():
            wire.instead = creating
            async with opened(dynamodb_skip_table_create=True):
                assert wire.counts() == {"DescribeTable": 4, "GetItem": 1, "BatchExecuteStatement": 1}

        async def create():
            async with opened():
                pass

        asyncio.run(create())
        wire.sent.clear()
        asyncio.run(test())

    def test_several_repositories_on_it_never_claim_the_same_row(self, opened):  # I2
        async def test():
            async with opened() as one, opened() as two, opened() as three:
                await one.register(NOW, [registration(f"{i:02}") for i in range(60)])
                claimed = []
                for _ in range(20):  # who meets another may get fewer than are due, and leave some to it
                    results = await asyncio.gather(*(claim(each, limit=30) for each in (one, two, three)))
                    claimed += [name for result in results for name in names_of(result.claims)]
                assert sorted(claimed) == [f"{i:02}" for i in range(60)]

        asyncio.run(test())

    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_workers_on_one_partition_hardly_write_what_others_have_claimed(self, opened, wire, workers):  # I2
        async def work(repository):
            claimed = 0
            while True:
                result = await claim(repository, limit=50)
                claimed += len(result.claims)
                if result.next_ready_at is None or result.next_ready_at > NOW:
                    return claimed

        async def test():
            async with contextlib.AsyncExitStack() as stack:
                repositories = [await stack.enter_async_context(opened()) for _ in range(workers)]
                await repositories[0].register(NOW, [registration(f"{i:04}") for i in range(1500)])
                wire.sent.clear()
                assert sum(await asyncio.gather(*map(work, repositories))) == 1500
                assert writes(wire) <= 1500 * 1.2

        asyncio.run(test())

    def test_a_row_that_is_due_now_and_then_is_written_by_one_of_four_workers(self, opened, wire):  # I2
        async def work(repository, now):
            claimed = 0
            while True:
                result = await claim(repository, now)
                claimed += len(result.claims)
                if result.next_ready_at is None or result.next_ready_at > now:
                    return claimed
                await asyncio.sleep(0.005)  # as the engine does, before it asks again for what others may have in hand

        async def test():
            async with contextlib.AsyncExitStack() as stack:
                repositories = [await stack.enter_async_context(opened()) for _ in range(4)]
                times = [NOW + i * MINUTE / 100 for i in range(60)]
                await repositories[0].register(NOW, [registration(str(i), at) for i, at in enumerate(times)])
                learned = None
                for number, at in enumerate(times):
                    assert sum(await asyncio.gather(*(work(each, at) for each in repositories))) == 1
                    learned = writes(wire) if number == 29 else learned
                assert writes(wire) - learned <= 30 * 1.5

        asyncio.run(test())

    def test_those_who_ask_for_the_same_names_keep_apart_as_well(self, opened, wire):  # I2
        """Static tasks are claimed so, by every worker at the same time."""
        names = [f"task {i}" for i in range(24)]

        async def work(repository, now):
            claimed = 0
            while True:
                result = await claim(repository, now, names=names)
                claimed += len(result.claims)
                if result.next_ready_at is None or result.next_ready_at > now:
                    return claimed
                await asyncio.sleep(0.005)

        async def test():
            async with contextlib.AsyncExitStack() as stack:
                repositories = [await stack.enter_async_context(opened()) for _ in range(4)]
                await repositories[0].register(NOW, [registration(name) for name in names])
                # They learn in some rounds whose names are whose, and again after one of them was held up. Workers that didn't
                # would write about four times as much in each round.
                apart = 0
                for number in range(60):  # each time the leases have expired
                    wire.sent.clear()
                    at = NOW + number * 10 * MINUTE
                    assert sum(await asyncio.gather(*(work(each, at) for each in repositories))) == len(names)
                    apart += writes(wire) <= len(names) * 1.2
                    if apart == 5:
                        break
                assert apart == 5

        asyncio.run(test())

    def test_an_emulator_that_does_not_report_broken_conditions_gets_each_row_by_itself(self, opened, wire):
        async def test(instead):
            wire.instead = lambda operation, body: instead if operation == "BatchExecuteStatement" else None
            async with opened() as repository:
                wire.sent.clear()
                await repository.register(NOW, [registration(name) for name in "abc"], force=True)
                claims = (await claim(repository)).claims
                await repository.settle(NOW, [*advanced(claims[:1]), Commit(claims[1], None), Release(claims[2], NOW)])
                counts = wire.counts()
                assert {name: counts.get(name) for name in ("PutItem", "UpdateItem", "DeleteItem")} == {
                    "PutItem": 3,
                    "UpdateItem": 5,
                    "DeleteItem": 1,
                }
                assert await repository.settle(NOW, advanced(claims)) == [Outcome.ALREADY, Outcome.GONE, Outcome.ALREADY]
                await repository.unregister(NOW, [Key("p", name) for name in "abc"])

        asyncio.run(test(answer({"Responses": [{}]})))
        asyncio.run(test(failure("UnknownOperationException")))
        asyncio.run(test(failure("AccessDeniedException", "dynamodb:PartiQLUpdate")))

    def test_a_repository_that_is_closed_says_so(self, opened, endpoint):
        async def test():
            async with opened() as repository:
                pass
            with pytest.raises(RepositoryError) as caught:
                await claim(repository)
            assert str(caught.value) == f"The repository of DynamoDB at {endpoint} is closed; use it within its context"

        asyncio.run(test())
