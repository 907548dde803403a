"""The group commit: what it sends together, what it sends again, and when it gives up."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from pyncette.clock import AlignedClock
from pyncette.errors import RepositoryError, TransientRepositoryError
from pyncette.repository import Commit, Extend, Outcome, Target
from pyncette.worker.settlement import Answer, Settler
from simulation.scripted import ScriptedStore, registration

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LEASE = 60.0
FOR_EVER = float("inf")


class Bench:
    """A settler over a store, and claims to settle."""

    def __init__(self, clock, batch_size=100):
        self.clock = clock
        self.store = ScriptedStore()
        self.progress = 0
        self.settler = Settler(self.store, AlignedClock(clock), batch_size, self._progressed)
        self.answers = []

    def _progressed(self):
        self.progress += 1

    def run(self, main):
        async def running():
            task = asyncio.create_task(self.settler.run())
            try:
                await main()
                self.settler.close(FOR_EVER)
                await task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        self.clock.run(running())

    async def claims(self, count):
        await self.store.register(START, [registration("p", f"{number:05}", START) for number in range(count)])
        return (await self.store.claim(self.clock.now(), "p", lease_duration=LEASE * SECOND, limit=count)).claims

    def commit(self, claim, give_up_at=LEASE):
        self.settler.put(commit(claim), give_up_at, lambda answer: self.answers.append((claim.key.name, answer)))

    @property
    def sizes(self):
        return [len(call.settlements) for call in self.store.called("settle")]

    @property
    def outcomes(self):
        return [answer.outcome for _, answer in self.answers]


def commit(claim):
    following = claim.occurrence + SECOND
    return Commit(claim, Target(following, following))


@pytest.fixture
def bench(clock):
    return Bench(clock)


def fails(condition, error):
    async def hook(call):
        if call.method == "settle" and condition(call):
            raise error

    return hook


def names(call):
    return [settlement.claim.key.name for settlement in call.settlements]


# --- batches --------------------------------------------------------------------------------------------------------------


def test_a_lone_outcome_is_sent_at_once(bench, clock):
    async def main():
        (claim,) = await bench.claims(1)
        await clock.advance(5 * SECOND)
        answer = await bench.settler.submit(commit(claim), LEASE)
        assert answer == Answer(Outcome.APPLIED, resent=False)
        assert clock.elapsed == 5
        assert bench.settler.pending == 0

    bench.run(main)


def test_what_comes_while_a_call_is_on_its_way_goes_into_the_next(bench, clock):
    async def slowly(call):
        if call.method == "settle":
            await asyncio.sleep(0.05)

    async def main():
        claims = await bench.claims(151)
        bench.store.before = slowly
        bench.commit(claims[0])
        await clock.advance(0.01 * SECOND)
        for claim in claims[1:]:
            bench.commit(claim)
        assert bench.settler.pending == 151

    bench.run(main)
    assert bench.sizes == [1, 100, 50]
    assert [name for name, _ in bench.answers] == sorted(name for name, _ in bench.answers)
    assert bench.outcomes == [Outcome.APPLIED] * 151
    assert bench.progress == 3


def test_one_call_is_on_its_way_at_a_time(bench, clock):
    underway = []

    async def slowly(call):
        if call.method == "settle":
            assert not underway
            underway.append(call)
            await asyncio.sleep(0.01)
            underway.clear()

    async def main():
        claims = await bench.claims(300)
        bench.store.before = slowly
        for claim in claims:
            bench.commit(claim)
            await clock.advance(timedelta(milliseconds=1))

    bench.run(main)
    assert len(bench.answers) == 300


def test_a_key_stands_once_in_a_batch_and_its_order_is_kept(bench, clock):
    async def main():
        claims = await bench.claims(3)
        until = START + 2 * LEASE * SECOND
        for claim in claims:
            bench.settler.put(Extend(claim, until), LEASE, lambda answer: bench.answers.append(("", answer)))
        for claim in claims:
            bench.commit(claim)

    bench.run(main)
    for call in bench.store.called("settle"):
        assert len(set(names(call))) == len(call.settlements)
    assert bench.outcomes == [Outcome.APPLIED] * 6  # an extension behind its commit would be LOST


# --- errors that pass -----------------------------------------------------------------------------------------------------


def test_a_transient_error_is_tried_again_until_the_lease_ends(bench, clock):
    async def main():
        (claim,) = await bench.claims(1)
        bench.store.before = fails(lambda call: True, TransientRepositoryError("away"))
        answer = await bench.settler.submit(commit(claim), LEASE)
        assert answer.outcome is None and answer.resent
        assert isinstance(answer.error, TransientRepositoryError)
        assert LEASE <= clock.elapsed <= LEASE + 1
        tries = [call.at for call in bench.store.called("settle")]
        pauses = [later - earlier for earlier, later in zip(tries, tries[1:], strict=False)]
        assert pauses[0] < 0.1 and max(pauses) < 1.01
        assert len(tries) < LEASE + 10

    bench.run(main)


def test_a_first_try_is_made_even_after_the_lease(bench, clock):
    # A late holder may still settle, as long as nobody else has claimed.
    async def main():
        (claim,) = await bench.claims(1)
        await clock.advance(2 * LEASE * SECOND)
        assert (await bench.settler.submit(commit(claim), LEASE)).outcome is Outcome.APPLIED

    bench.run(main)


def test_a_call_that_its_own_driver_cancels_is_sent_again(bench):
    # As when a connection is closed whose future others await.
    async def main():
        (claim,) = await bench.claims(1)
        failed = []

        async def cancel(call):
            if call.method == "settle" and not failed:
                failed.append(call)
                raise asyncio.CancelledError

        bench.store.after = cancel
        assert await bench.settler.submit(commit(claim), LEASE) == Answer(Outcome.ALREADY, resent=True)

    bench.run(main)


def test_an_answer_that_was_lost_is_asked_for_again(bench):
    # I5: the commit is not written twice, and whoever waits is told that the answer may be that to the first try.
    async def main():
        (claim,) = await bench.claims(1)
        failed = []

        async def lose(call):
            if call.method == "settle" and not failed:
                failed.append(call)
                raise TransientRepositoryError("the connection was lost")

        bench.store.after = lose
        assert await bench.settler.submit(commit(claim), LEASE) == Answer(Outcome.ALREADY, resent=True)
        assert bench.store.rows()["00000"].occurrence == START + SECOND

    bench.run(main)


def test_the_store_is_not_drowned_when_it_comes_back(bench, clock, caplog):
    async def main():
        claims = await bench.claims(100)
        bench.store.before = fails(lambda call: call.at < 30, TransientRepositoryError("away"))
        for claim in claims:
            bench.commit(claim)
        await clock.advance(45 * SECOND)
        assert bench.outcomes == [Outcome.APPLIED] * 100

    with caplog.at_level(logging.WARNING, logger="pyncette"):
        bench.run(main)
    assert len(bench.sizes) < 50
    assert len(caplog.records) < 40


def test_a_row_that_always_times_out_costs_others_no_lease(bench, clock):
    # I10: someone holds a lock on one row for minutes, and each statement that touches it times out.
    async def stuck(call):
        if call.method == "settle" and "00050" in names(call):
            await asyncio.sleep(5)
            raise TransientRepositoryError("lock timeout")

    async def main():
        claims = await bench.claims(100)
        bench.store.before = stuck
        for claim in claims:
            bench.commit(claim)
        await clock.advance(LEASE * SECOND)
        applied = [name for name, answer in bench.answers if answer.outcome is Outcome.APPLIED]
        assert len(applied) == 99
        bench.store.before = None

    bench.run(main)


# --- errors for good ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 49, 99])
def test_one_bad_row_is_found_by_halving(bench, bad):
    # I10
    async def main():
        claims = await bench.claims(100)
        bench.store.before = fails(lambda call: f"{bad:05}" in names(call), RepositoryError("bad row"))
        for claim in claims:
            bench.commit(claim)

    bench.run(main)
    refused = [(name, answer) for name, answer in bench.answers if answer.outcome is not Outcome.APPLIED]
    assert [name for name, _ in refused] == [f"{bad:05}"]
    assert str(refused[0][1].error) == "bad row"
    assert len(bench.sizes) <= 15  # two calls for each of seven halvings


def test_errors_that_are_no_repository_errors_are_survived(bench):
    async def main():
        claims = await bench.claims(2)
        bench.store.before = fails(lambda call: "00001" in names(call), ZeroDivisionError())
        for claim in claims:
            bench.commit(claim)

    bench.run(main)
    assert [answer.outcome for _, answer in sorted(bench.answers, key=lambda each: each[0])] == [Outcome.APPLIED, None]


def test_a_batch_that_failed_may_have_been_applied_in_part(bench):
    async def main():
        claims = await bench.claims(4)

        async def fail_after(call):
            if call.method == "settle" and len(call.settlements) > 1:
                raise RepositoryError("failed at the end")

        bench.store.after = fail_after
        for claim in claims:
            bench.commit(claim)

    bench.run(main)
    assert [answer for _, answer in bench.answers] == [Answer(Outcome.ALREADY, resent=True)] * 4


def test_a_store_with_too_few_answers_is_not_believed(bench):
    async def main():
        claims = await bench.claims(3)
        original = bench.store.settle

        async def settle(now, settlements):
            return (await original(now, settlements))[: max(1, len(settlements) - 1)]

        bench.store.settle = settle
        for claim in claims:
            bench.commit(claim)

    bench.run(main)
    assert sorted(bench.outcomes, key=str) == [Outcome.ALREADY] * 3


# --- the end --------------------------------------------------------------------------------------------------------------


def test_closing_sends_what_is_left(bench, clock):
    async def main():
        for claim in await bench.claims(250):
            bench.commit(claim)

    bench.run(main)
    assert bench.outcomes == [Outcome.APPLIED] * 250


def test_closing_tries_at_once_and_not_after_the_pause_of_an_earlier_failure(bench, clock):
    # I12: or what a cancelled body gives back would stay leased, because the store was away a second ago.
    async def main():
        claims = await bench.claims(2)
        bench.store.before = fails(lambda call: True, TransientRepositoryError("away"))
        bench.commit(claims[0])
        await clock.advance(1.6 * SECOND)
        bench.store.before = None
        bench.commit(claims[1])
        bench.settler.close(clock.elapsed + 0.1)
        await clock.advance(0.1 * SECOND)
        assert bench.outcomes == [Outcome.APPLIED] * 2

    bench.run(main)


@pytest.mark.parametrize("before_closing", [0.0, 3.3])
def test_closing_gives_up_when_the_store_is_away(bench, clock, before_closing):
    async def main():
        claims = await bench.claims(250)
        bench.store.before = fails(lambda call: True, TransientRepositoryError("away"))
        for claim in claims:
            bench.commit(claim)
        await clock.advance(before_closing * SECOND)
        bench.settler.close(clock.elapsed + 5)
        while bench.settler.pending:
            await asyncio.sleep(0.1)
        assert clock.elapsed < before_closing + 5 + 250 * 0.01 + 2

    bench.run(main)
    assert bench.outcomes == [None] * 250


def test_nobody_waits_for_ever_for_a_settler_that_has_ended(bench):
    # A body that was left behind at shutdown sends a heartbeat, or ends.
    async def main():
        (claim,) = await bench.claims(1)
        bench.settler.close(FOR_EVER)
        await asyncio.sleep(1)
        answer = await bench.settler.submit(commit(claim), LEASE)
        assert answer.outcome is None and isinstance(answer.error, RepositoryError)

    bench.run(main)
    assert bench.store.called("settle") == []


def test_nobody_waits_for_ever_for_a_settler_that_is_cancelled(bench, clock):
    async def main():
        claims = await bench.claims(2)
        settling = asyncio.create_task(bench.settler.run())
        bench.store.before = hang
        waiting = [asyncio.create_task(bench.settler.submit(commit(claim), LEASE)) for claim in claims]
        await asyncio.sleep(1)
        settling.cancel()
        for answer in await asyncio.wait_for(asyncio.gather(*waiting), 1):
            assert answer.outcome is None

    async def hang(call):
        await asyncio.sleep(1e9)

    clock.run(main())


def test_whoever_stops_waiting_does_not_stop_the_settlement(bench, clock):
    async def main():
        (claim,) = await bench.claims(1)
        waiting = asyncio.create_task(bench.settler.submit(commit(claim), LEASE))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(1)
        assert bench.store.rows()["00000"].occurrence == START + SECOND

    bench.run(main)
