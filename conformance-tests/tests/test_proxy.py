"""The TCP proxy of layer 3 does to connections what networks do."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from pyncette_conformance.faults.proxy import Proxy

#: How long nothing has to happen, to be taken for silence.
SILENCE = 0.15


class Server:
    """Echoes lines, and remembers them."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self.received.append(line)
                writer.write(b"echo " + line)
                await writer.drain()
        writer.close()


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: bytes) -> bytes:
        """The answer; empty if the connection is broken."""
        try:
            self.writer.write(line)
            await self.writer.drain()
            return await self.reader.readline()
        except ConnectionError:
            return b""


Scenario = Callable[[Proxy, Server, Callable[[], Awaitable[Client]]], Awaitable[None]]


def play(scenario: Scenario) -> None:
    async def main() -> None:
        server = Server()
        clients: list[Client] = []
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        async with asyncio.timeout(20), Proxy("127.0.0.1", listening.sockets[0].getsockname()[1]) as proxy:

            async def connect() -> Client:
                clients.append(Client(*await asyncio.open_connection("127.0.0.1", proxy.port)))
                return clients[-1]

            await scenario(proxy, server, connect)
            for client in clients:
                client.writer.close()
        listening.close()

    asyncio.run(main())


async def silent(client: Client, line: bytes) -> asyncio.Task[bytes]:
    """Ask, and see that there is no answer; returns the question, which is still open."""
    question = asyncio.create_task(client.ask(line))
    await asyncio.sleep(SILENCE)
    assert not question.done()
    return question


def test_forwards_both_ways() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        assert await client.ask(b"one\n") == b"echo one\n"
        assert await client.ask(b"x" * 10_000 + b"\n") == b"echo " + b"x" * 10_000 + b"\n"
        client.writer.write_eof()
        assert await client.reader.read() == b""

    play(scenario)


def test_freezes_old_connections_and_lets_new_ones_through() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        old = await connect()
        await old.ask(b"one\n")
        proxy.freeze()
        question = await silent(old, b"two\n")
        assert await (await connect()).ask(b"three\n") == b"echo three\n"
        assert b"two\n" not in server.received
        proxy.thaw()
        assert await question == b"echo two\n"

    play(scenario)


def test_freezes_new_connections() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        proxy.freeze_new = True
        question = await silent(await connect(), b"one\n")
        assert server.received == []
        proxy.thaw()
        assert await question == b"echo one\n"

    play(scenario)


def test_cuts_replies_after_the_server_has_done_its_work() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        await client.ask(b"one\n")
        proxy.cut_replies()
        assert await client.ask(b"two\n") == b""
        assert server.received == [b"one\n", b"two\n"]
        assert await (await connect()).ask(b"three\n") == b"echo three\n"

    play(scenario)


def test_drops_connections() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        await client.ask(b"one\n")
        proxy.drop()
        assert await client.ask(b"two\n") == b""
        assert await (await connect()).ask(b"three\n") == b"echo three\n"
        assert proxy.open_connections == 1

    play(scenario)


def test_is_slow() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        await client.ask(b"one\n")
        proxy.delay = SILENCE
        assert await (await silent(client, b"two\n")) == b"echo two\n"

    play(scenario)


def test_passes_a_reset_on() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        assert await client.ask(b"1\n") == b"echo 1\n"
        client.writer.transport.abort()
        while proxy.open_connections:
            await asyncio.sleep(0.01)

    play(scenario)


def test_counts_round_trips() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        client, other = await connect(), await connect()
        for i in range(3):
            await client.ask(b"%d\n" % i)
        await other.ask(b"x" * 60_000 + b"\n")  # in many pieces
        assert proxy.round_trips == 4

    play(scenario)


def test_refuses_new_connections_and_keeps_old_ones() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        await client.ask(b"one\n")
        proxy.accepting = False
        assert await (await connect()).ask(b"two\n") == b""
        assert await client.ask(b"three\n") == b"echo three\n"
        assert server.received == [b"one\n", b"three\n"]

    play(scenario)


def test_closes_the_client_when_the_server_is_not_there() -> None:
    async def main() -> None:
        gone = await asyncio.start_server(Server().serve, "127.0.0.1", 0)
        port = gone.sockets[0].getsockname()[1]
        gone.close()
        await gone.wait_closed()
        async with asyncio.timeout(20), Proxy("127.0.0.1", port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            with pytest.raises(ConnectionError):
                if await reader.read() == b"":
                    raise ConnectionResetError
            writer.close()

    asyncio.run(main())


def test_holds_replies_back_after_so_many_bytes() -> None:
    async def scenario(proxy: Proxy, server: Server, connect: Callable[[], Awaitable[Client]]) -> None:
        old = await connect()
        assert await old.ask(b"one\n") == b"echo one\n"
        proxy.hold_replies(after=12)
        questions = []
        for client in (old, await connect()):
            assert await client.ask(b"one\n") == b"echo one\n"
            proxy.holding.clear()
            question = asyncio.create_task(client.ask(b"two\n"))
            await proxy.holding.wait()
            assert server.received[-1] == b"two\n"
            await asyncio.sleep(SILENCE)
            assert not question.done()
            questions.append(question)
        proxy.thaw()
        assert await asyncio.gather(*questions) == [b"echo two\n"] * 2
        assert await old.ask(b"x" * 100 + b"\n") == b"echo " + b"x" * 100 + b"\n"

    play(scenario)
