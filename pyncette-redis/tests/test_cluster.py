"""A cluster whose nodes stop, hang, fail over and exchange slots."""

import asyncio
import signal
import time

import pytest
from conftest import Servers, free_port, wait_until
from test_faults import MINUTE, NOW

from pyncette.errors import TransientRepositoryError
from pyncette.redis import redis_repository
from pyncette.repository import Commit, Key, Outcome, Registration, Target

PARTITIONS = [f"p{i}" for i in range(30)]
KEYS = [Key(partition, "a") for partition in PARTITIONS]


class Cluster:
    """Three nodes with a third of the slots each, and a replica of the first."""

    def __init__(self, servers, raw):
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "600", "--cluster-require-full-coverage", "no"]
        self.nodes, self.clients, self.ids = [], [], []
        for _ in range(4):
            # The default for the second port, 10,000 above the first, may be somebody's outgoing connection.
            self.nodes.append(servers.start(*options, "--cluster-port", str(free_port())))
            self.clients.append(raw(self.nodes[-1].url))
            self.ids.append(self.clients[-1].execute_command("CLUSTER", "MYID"))
        bounds = [0, 5461, 10923, 16384]
        for i, client in enumerate(self.clients[:3]):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for node in self.nodes[1:]:
            self.clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, node.options[-1])
        wait_until(lambda: all(len(client.cluster("nodes")) == 4 for client in self.clients))
        self.clients[3].execute_command("CLUSTER", "REPLICATE", self.ids[0])
        self.settles()

    def settles(self):
        wait_until(lambda: all(client.cluster("info")["cluster_state"] == "ok" for client in self.clients))
        wait_until(lambda: self.clients[3].info("replication")["master_link_status"] == "up")

    def repository(self, *nodes, **options):
        hosts = ",".join(f"127.0.0.1:{self.nodes[node].port}" for node in nodes)
        return redis_repository(redis_url=f"redis+cluster://{hosts}", **options)

    def slot(self, repository, key):
        return self.clients[1].cluster("keyslot", repository._keys.rows(key.partition)[0])

    def node_of_static_tasks(self, repository):
        return next(i for i in range(3) if Key("static", "") in self.on_node(repository, i, [Key("static", "")]))

    def on_node(self, repository, number, keys=KEYS):
        """Keys of partitions that the node has."""
        own = self.clients[number].cluster("nodes")[f"127.0.0.1:{self.nodes[number].port}"]["slots"]
        ranges = [range(int(each[0]), int(each[-1]) + 1) for each in own if each[0].isdigit()]
        return [key for key in keys if any(self.slot(repository, key) in each for each in ranges)]


@pytest.fixture(scope="module")
def shared(server_program, raw, tmp_path_factory):
    with Servers(*server_program, tmp_path_factory.mktemp("cluster")) as servers:
        yield Cluster(servers, raw)


@pytest.fixture
def cluster(shared):
    shared.settles()
    return shared


async def register(repository, keys=KEYS):
    await repository.register(NOW, [Registration(key, "{}", "s", Target(NOW, NOW)) for key in keys])


async def works(repository, keys):
    await register(repository, keys)
    claims = []
    for key in keys:
        claims += (await repository.claim(NOW, key.partition, lease_duration=MINUTE, limit=9)).claims
    outcomes = await repository.settle(NOW, [Commit(each, Target(NOW, NOW)) for each in claims])
    assert outcomes == [Outcome.APPLIED] * len(keys)


async def works_again(repository, keys, within):
    async with asyncio.timeout(within):
        while True:
            try:
                # What was claimed by a call that failed is claimed again.
                await repository.unregister(NOW, keys)
                return await works(repository, keys)
            except TransientRepositoryError:
                await asyncio.sleep(0.05)


class TestCluster:
    def test_slots_move_between_nodes(self, cluster):
        async def test():
            async with cluster.repository(0) as repository:
                await works_again(repository, KEYS, within=20)
                source, target, *_ = cluster.clients
                for key in cluster.on_node(repository, 0)[:3]:
                    slot = cluster.slot(repository, key)
                    target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.ids[0])
                    source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.ids[1])
                    assert all(await repository.get(KEYS))
                    names, port = repository._keys.rows(key.partition), cluster.nodes[1].port
                    source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *names)
                    assert all(await repository.get(KEYS))
                    for client in cluster.clients[:3]:
                        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", cluster.ids[1])
                    assert all(await repository.get(KEYS))
                await works_again(repository, KEYS, within=20)

        asyncio.run(test())

    def test_a_node_that_hangs_holds_up_only_what_is_on_it(self, cluster):
        async def test():
            async with cluster.repository(0, 1, 2, redis_timeout=2) as repository:
                await works_again(repository, KEYS, within=20)
                hung, well = cluster.on_node(repository, 2), cluster.on_node(repository, 1)
                cluster.nodes[2].process.send_signal(signal.SIGSTOP)
                try:
                    started = time.monotonic()
                    with pytest.raises(TransientRepositoryError, match="did not answer within 2 s"):
                        await repository.get(hung)
                    assert time.monotonic() - started < 6
                    await works_again(repository, well, within=20)
                finally:
                    cluster.nodes[2].process.send_signal(signal.SIGCONT)
                await works_again(repository, KEYS, within=20)

        asyncio.run(test())

    def test_nothing_else_fails_while_a_node_hangs(self, cluster):
        # Neither a registration, for which no one slot is needed, nor a call that comes when the map of slots has to be asked for.
        async def test():
            async with cluster.repository(0, 1, 2, redis_timeout=2) as repository:
                await works_again(repository, KEYS, within=20)
                await repository.unregister(NOW, KEYS)
                hung, well = cluster.on_node(repository, 2), [*cluster.on_node(repository, 0), *cluster.on_node(repository, 1)]
                assert hung
                assert cluster.node_of_static_tasks(repository) != 2
                cluster.nodes[2].process.send_signal(signal.SIGSTOP)
                try:
                    for i in range(3):
                        failing = [asyncio.create_task(repository.get([key])) for key in hung[:3]]
                        new = [Key(key.partition, f"{i}") for key in well]
                        async with asyncio.timeout(1.8):
                            await works(repository, new)
                            await repository.server_time()
                            assert all(await repository.get(new))
                            assert await repository.unregister(NOW, new) == [True] * len(new)
                        results = await asyncio.gather(*failing, return_exceptions=True)
                        assert {type(each) for each in results} == {TransientRepositoryError}
                finally:
                    cluster.nodes[2].process.send_signal(signal.SIGCONT)
                await works_again(repository, KEYS, within=20)
                assert sorted(await repository.partitions()) == sorted(PARTITIONS)

        asyncio.run(test())

    def test_of_a_call_about_several_nodes_those_that_are_well_do_their_part(self, cluster):
        async def test():
            async with cluster.repository(0, 1, 2, redis_timeout=2) as repository:
                await works_again(repository, KEYS, within=20)
                await repository.unregister(NOW, KEYS)
                hung = cluster.on_node(repository, 2)
                well = [key for key in KEYS if key not in hung]
                new = {key: Key(f"{key.partition}", "new") for key in KEYS}
                cluster.nodes[2].process.send_signal(signal.SIGSTOP)
                try:
                    with pytest.raises(TransientRepositoryError, match="did not answer within 2 s"):
                        await register(repository, [*new.values()])
                    assert all(await repository.get([new[key] for key in well]))
                finally:
                    cluster.nodes[2].process.send_signal(signal.SIGCONT)
                await works_again(repository, [*new.values()], within=20)
                assert await repository.unregister(NOW, [*new.values()]) == [True] * len(KEYS)

        asyncio.run(test())

    def test_all_nodes_are_restarted(self, cluster):
        async def test():
            async with cluster.repository(0, 1) as repository:
                await works_again(repository, KEYS, within=20)
                for node in cluster.nodes:
                    node.stop()
                with pytest.raises(TransientRepositoryError):
                    await repository.get(KEYS)
                await asyncio.gather(*(asyncio.to_thread(node.start) for node in cluster.nodes))
                await works_again(repository, KEYS, within=20)

        asyncio.run(test())

    def test_a_node_is_replaced_by_its_replica_though_the_url_names_no_other(self, cluster):
        async def test():
            async with cluster.repository(0, redis_timeout=2) as repository:
                await works_again(repository, KEYS, within=20)
                lost = cluster.on_node(repository, 0)
                cluster.clients[0].wait(1, 5000)
                cluster.nodes[0].stop()
                try:
                    for _ in range(5):  # what it knows of the other nodes outlives calls that fail
                        with pytest.raises(TransientRepositoryError):
                            await repository.get(lost)
                    await works_again(repository, KEYS, within=20)
                finally:
                    await asyncio.to_thread(cluster.nodes[0].start)

        asyncio.run(test())
