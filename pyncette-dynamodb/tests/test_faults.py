"""A service that is too busy, fails, or can't be reached: what a caller sees of it, and that it is over when it is over."""

import asyncio
import contextlib
import time
import urllib.parse

import pytest
from conftest import answer, failure
from test_dynamodb import MINUTE, NOW, advanced, claim, names_of, registration

from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.repository import Commit, Extend, Key, Outcome, Release
from pyncette_conformance.faults.proxy import Proxy
from pyncette_conformance.interruption import interrupt

BUSY = ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"]


async def lives(repository):
    """All of a row's life, with a name of its own."""
    name = str(time.monotonic_ns())
    await repository.register(NOW, [registration(name)])
    [claimed] = (await claim(repository, names=[name])).claims
    assert await repository.settle(NOW, [Commit(claimed, None)]) == [Outcome.APPLIED]


async def comes_back(repository, within):
    async with asyncio.timeout(within):
        while True:
            with contextlib.suppress(TransientRepositoryError):
                return await lives(repository)
            await asyncio.sleep(0.05)


class TestBusy:
    @pytest.mark.parametrize("code", BUSY)
    def test_what_was_not_applied_is_sent_again_until_it_is(self, opened, wire, code):
        async def test():
            async with opened() as repository:
                names = [f"{i:02}" for i in range(30)]
                refusals = {}

                def refuse_twice(operation, body):
                    what = (
                        operation,
                        str(body.get("Item", body.get("Key", ""))) if operation != "PutItem" else body["Item"]["task_id"]["S"],
                    )
                    refusals[what] = refusals.get(what, 0) + 1
                    return failure(code) if refusals[what] <= 2 else None

                wire.instead = refuse_twice
                await repository.register(NOW, [registration(name) for name in names])
                refusals.clear()
                claims = (await claim(repository)).claims
                assert sorted(names_of(claims)) == names
                refusals.clear()
                assert await repository.settle(NOW, advanced(claims)) == [Outcome.APPLIED] * 30

        asyncio.run(test())

    def test_a_call_that_is_refused_for_ever_ends_in_time(self, opened, wire, endpoint):
        async def test():
            async with opened(dynamodb_timeout=0.5) as repository:
                wire.instead = lambda operation, body: failure("ThrottlingException", "Rate exceeded")
                calls = {
                    "register": lambda: repository.register(NOW, [registration(str(i)) for i in range(200)]),
                    "get": lambda: repository.get([Key("p", str(i)) for i in range(200)]),
                    "claim": lambda: claim(repository),
                    "claim by name": lambda: claim(repository, names=[str(i) for i in range(200)]),
                    "list": lambda: repository.list("p", limit=9),
                }
                for name, call in calls.items():
                    started = time.monotonic()
                    with pytest.raises(TransientRepositoryError) as caught:
                        await call()
                    assert time.monotonic() - started < 1.2, name
                    assert str(caught.value).startswith(f"DynamoDB at {endpoint} was too busy for 0.5 s (")
                    assert str(caught.value).endswith(
                        ": ThrottlingException: Rate exceeded); raise the capacity of the table, or spread the tasks over more partitions"
                    )
                wire.instead = lambda operation, body: None
                await lives(repository)

        asyncio.run(test())

    def test_a_row_that_can_not_be_written_in_time_costs_the_others_of_a_claim_nothing(self, opened, wire):  # I10
        async def test():
            async with opened(dynamodb_timeout=1) as repository:
                await repository.register(NOW, [registration(name) for name in "abc"])
                wire.afterwards = refusing("b", "ThrottlingError")
                result = await claim(repository)
                assert (sorted(names_of(result.claims)), result.next_ready_at) == (["a", "c"], NOW)

        asyncio.run(test())

    def test_keys_that_a_batch_left_out_are_asked_for_again(self, opened, wire, monkeypatch):
        async def test():
            async with opened() as repository:
                names = "abcdefgh"
                await repository.register(NOW, [registration(name) for name in names])
                original = repository._table._wire.post

                async def three_at_most(operation, body):
                    [(table, request)] = body["RequestItems"].items()
                    some = {**request, "Keys": request["Keys"][:3]}
                    answer = await original(operation, {"RequestItems": {table: some}})
                    left = request["Keys"][3:]
                    return {**answer, "UnprocessedKeys": {table: {**request, "Keys": left}} if left else {}}

                repository._table._wire.post = three_at_most
                wire.sent.clear()
                assert [row.key.name for row in await repository.get([Key("p", name) for name in names])] == list(names)
                assert wire.counts() == {"BatchGetItem": 3}

        asyncio.run(test())


class TestUnknownOutcomes:
    @pytest.mark.parametrize(("code", "status"), [("InternalServerError", 500), ("ServiceUnavailable", 503)])
    def test_are_reported_and_nothing_is_sent_again(self, opened, wire, endpoint, code, status):  # I5, I6
        async def test():
            async with opened() as repository:
                await repository.register(NOW, [registration("a")])
                wire.afterwards = lambda operation, body: failure(code, status=status) if operation == "UpdateItem" else None
                wire.sent.clear()
                with pytest.raises(TransientRepositoryError) as caught:
                    await claim(repository)
                assert wire.counts()["UpdateItem"] == 1
                assert str(caught.value) == (f"DynamoDB at {endpoint} failed (UpdateItem: {code}: so be it)")
                wire.afterwards = lambda operation, body: None
                [claimed] = (await claim(repository, NOW + MINUTE)).claims
                assert claimed.attempt == 2  # the first claim was applied
                wire.afterwards = lambda operation, body: failure(code, status=status) if operation == "UpdateItem" else None
                with pytest.raises(TransientRepositoryError):
                    await repository.settle(NOW + MINUTE, [Release(claimed, NOW + MINUTE)])
                wire.afterwards = lambda operation, body: None
                assert await repository.settle(NOW + MINUTE, [Release(claimed, NOW + MINUTE)]) == [Outcome.ALREADY]

        asyncio.run(test())

    def test_of_one_row_of_a_batch_let_the_others_be_written(self, opened, wire):  # I10
        async def test():
            async with opened() as repository:
                await repository.register(NOW, [registration(name) for name in "abc"])
                wire.afterwards = refusing("b", "InternalServerError")
                result = await claim(repository)
                assert sorted(names_of(result.claims)) == ["a", "c"]
                wire.afterwards = lambda operation, body: None
                claims = (await claim(repository, NOW + MINUTE)).claims
                wire.afterwards = refusing("b", "InternalServerError")
                with pytest.raises(TransientRepositoryError):
                    await repository.settle(NOW, advanced(claims))
                wire.afterwards = lambda operation, body: None
                assert await repository.settle(NOW, advanced(claims)) == [Outcome.ALREADY] * 3

        asyncio.run(test())

    @pytest.mark.parametrize(
        "code", ["ProvisionedThroughputExceeded", "ThrottlingError", "RequestLimitExceeded", "TransactionConflict"]
    )
    def test_of_a_batch_only_what_the_service_was_too_busy_for_is_sent_again(self, opened, wire, code):
        async def test():
            async with opened() as repository:
                await repository.register(NOW, [registration(f"{i:02}") for i in range(30)])
                claims = (await claim(repository)).claims
                refused = iter(["03", "07", "07", "29"])
                sent = []

                def refuse(operation, body):
                    sent.append([each["Parameters"][-5]["S"] for each in body["Statements"]])
                    name = next(refused, None)
                    return refusing(name, code, instead=True)(operation, body) if name else None

                wire.instead = refuse
                assert await repository.settle(NOW, advanced(claims)) == [Outcome.APPLIED] * 30
                assert sum(map(len, sent)) > 30  # and what was written is not written again: that would be ALREADY

        asyncio.run(test())

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("AccessDenied", "denies a request (BatchExecuteStatement: AccessDeniedException: so be it); allow it in the policy"),
            (
                "ItemCollectionSizeLimitExceeded",
                "is full (BatchExecuteStatement: ItemCollectionSizeLimitExceededException: so be it)",
            ),
            ("ResourceNotFound", "There is no table"),
            ("ValidationError", "refused a request (BatchExecuteStatement: ValidationError: so be it)"),
        ],
    )
    def test_what_is_refused_of_a_batch_is_told_and_the_others_are_written(self, opened, wire, code, message):  # I10
        async def test():
            async with opened() as repository:
                wire.instead = refusing("b", code, instead=True)
                with pytest.raises(RepositoryError) as caught:
                    await repository.register(NOW, [registration(name) for name in "abc"])
                assert message in str(caught.value)
                assert not isinstance(caught.value, TransientRepositoryError)

        asyncio.run(test())


def refusing(name, code, *, instead=False):
    """Answers that one statement of a batch, that of the row ``name``, has failed, and that all others were carried out."""
    error = {"Error": {"Code": code, "Message": "so be it"}}

    def refuse(operation, body):
        if operation != "BatchExecuteStatement":
            return None
        bad = [any(each.get("S") == name for each in statement["Parameters"]) for statement in body["Statements"]]
        return answer({"Responses": [error if each else {} for each in bad]}) if any(bad) else None

    return refuse


@contextlib.asynccontextmanager
async def proxied(endpoint, opened, **options):
    parts = urllib.parse.urlsplit(endpoint)
    async with Proxy(parts.hostname, parts.port) as proxy:
        async with opened(dynamodb_endpoint=f"http://127.0.0.1:{proxy.port}", **options) as repository:
            yield proxy, repository


def needs_open_connections(proxy):
    if proxy.open_connections < 2:
        pytest.skip("needs a server that keeps connections open, as the service and DynamoDB Local do; moto does not")


class TestNetwork:
    def test_a_call_whose_reply_is_lost_is_reported_and_not_sent_again(self, endpoint, opened):
        async def test():
            async with proxied(endpoint, opened) as (proxy, repository):
                await repository.register(NOW, [registration("a")])
                await asyncio.gather(*(repository.get([Key("p", "a")]) for _ in range(3)))
                needs_open_connections(proxy)
                original = repository.write_many

                async def cut(*arguments):
                    proxy.cut_replies()
                    return await original(*arguments)

                repository.write_many = cut
                with pytest.raises(TransientRepositoryError, match="can't be reached"):
                    await claim(repository)
                repository.write_many = original
                proxy.drop()
                await asyncio.sleep(0.05)
                assert [row.attempt for row in await repository.get([Key("p", "a")])] == [1]

        asyncio.run(test())

    def test_a_black_hole_ends_in_time_and_all_old_connections_are_given_up(self, endpoint, opened):
        async def test():
            async with proxied(endpoint, opened, dynamodb_timeout=2) as (proxy, repository):
                await asyncio.gather(*(lives(repository) for _ in range(10)))
                needs_open_connections(proxy)
                proxy.freeze()
                started = time.monotonic()
                with pytest.raises(TransientRepositoryError, match="did not answer within 2 s"):
                    await claim(repository)
                assert 1.8 < time.monotonic() - started < 8
                await asyncio.gather(*(lives(repository) for _ in range(10)))

        asyncio.run(test())

    def test_a_long_outage_wedges_nothing(self, endpoint, opened):
        async def test():
            async with proxied(endpoint, opened, dynamodb_timeout=1.5, dynamodb_max_connections=4) as (proxy, repository):
                await lives(repository)
                proxy.freeze()
                proxy.freeze_new = True
                until = time.monotonic() + 2
                while time.monotonic() < until:
                    started = time.monotonic()
                    results = await asyncio.gather(*(claim(repository) for _ in range(12)), return_exceptions=True)
                    assert {type(each) for each in results} == {TransientRepositoryError}
                    assert time.monotonic() - started < 4  # and not one after the other
                proxy.freeze_new = False  # the old ones stay dead
                await comes_back(repository, within=20)
                proxy.accepting = False
                proxy.drop()
                with pytest.raises(TransientRepositoryError):
                    await lives(repository)
                proxy.accepting = True
                await comes_back(repository, within=20)

        asyncio.run(test())

    def test_no_more_connections_are_opened_than_allowed(self, endpoint, opened):
        async def test():
            async with proxied(endpoint, opened, dynamodb_max_connections=3) as (proxy, repository):
                await repository.register(NOW, [registration(str(i)) for i in range(40)])
                assert proxy.open_connections <= 3
                proxy.drop()
                await asyncio.sleep(0.05)  # idle connections that were reset are not even noticed
                await lives(repository)

        asyncio.run(test())


class TestCancellation:
    @pytest.mark.parametrize("answered", [False, True])
    @pytest.mark.parametrize("call", ["register", "claim", "claim by name", "settle", "get", "list", "unregister"])
    def test_at_any_await_leaves_the_repository_usable(self, opened, call, answered):  # I14
        async def test():
            async with opened(dynamodb_max_connections=2) as repository:
                keys = [Key("p", name) for name in "abc"]
                at = 0
                while True:
                    await repository.register(NOW, [registration(key.name) for key in keys], force=True)
                    claims = (await claim(repository)).claims if call == "settle" else []
                    ours = {
                        "register": lambda: repository.register(NOW, [registration(key.name, spec=str(at)) for key in keys]),
                        "claim": lambda: claim(repository),
                        "claim by name": lambda: claim(repository, names=["a", "b", "c", "d"]),
                        "settle": lambda: repository.settle(NOW, [Extend(each, NOW + 2 * MINUTE) for each in claims]),
                        "get": lambda: repository.get(keys),
                        "list": lambda: repository.list("p", limit=9),
                        "unregister": lambda: repository.unregister(NOW, keys),
                    }
                    interrupted = await interrupt(ours[call](), at, answered=answered)
                    await lives(repository)
                    assert asyncio.all_tasks() == {asyncio.current_task()}
                    if not interrupted.reached:
                        break
                    at += 1
                assert at > 0

        asyncio.run(test())

    def test_while_opening_leaves_nothing_open(self, opened, endpoint):
        async def test():
            parts = urllib.parse.urlsplit(endpoint)
            async with Proxy(parts.hostname, parts.port) as proxy:

                async def start():
                    async with opened(dynamodb_endpoint=f"http://127.0.0.1:{proxy.port}"):
                        pass

                at, reached = 0, True
                while reached:
                    reached = (await interrupt(start(), at, answered=False)).reached
                    at += 1
                async with asyncio.timeout(30):
                    while proxy.open_connections:
                        await asyncio.sleep(0.01)

        asyncio.run(test())


class TestClosing:
    def test_amid_calls_ends_them_all_at_once_with_an_error_of_the_store(self, endpoint, opened):
        async def test():
            async with contextlib.AsyncExitStack() as stack:
                proxy, repository = await stack.enter_async_context(proxied(endpoint, opened))
                proxy.delay = 0.1
                calls = [asyncio.create_task(lives(repository)) for _ in range(5)]
                await asyncio.sleep(0.15)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(each, RepositoryError) for each in results), results

        asyncio.run(test())

    def test_leaves_no_connection_open(self, endpoint, opened):
        async def test():
            parts = urllib.parse.urlsplit(endpoint)
            async with Proxy(parts.hostname, parts.port) as proxy:
                async with opened(dynamodb_endpoint=f"http://127.0.0.1:{proxy.port}") as repository:
                    await asyncio.gather(*(lives(repository) for _ in range(3)))
                async with asyncio.timeout(30):
                    while proxy.open_connections:
                        await asyncio.sleep(0.01)

        asyncio.run(test())
