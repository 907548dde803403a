"""What ``pyncette list`` and ``show`` tell of last runs, retries and pauses."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from test_cli import pyncette, shop  # noqa: F401 - fixtures
from test_cli_stored import body, declare

from pyncette import Pyncette
from pyncette.clock import to_microseconds
from pyncette.memo import Memo, of_success
from pyncette.repository import Commit, Release, Target
from pyncette.runs import Run, RunOutcome

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00"


@pytest.fixture
def stored(shop):  # noqa: F811
    """A store in which ``well`` has succeeded, ``ill`` has failed and waits for a retry, and ``away`` is paused; ``new`` never ran."""
    declare(shop, "dynamic_task(name='mail')")

    async def main():
        app = Pyncette(f"sqlite:///{shop}/shop.db")
        mail = app.dynamic_task(name="mail")(body)
        async with app.create() as context:
            now = context.clock.now()
            for name in ("well", "ill"):
                await context.schedule_task(mail, name, interval=HOUR)
            claims = {
                claim.key.name: claim
                for claim in (
                    await context.repository.claim(now + 2 * HOUR, mail.key("x").partition, lease_duration=SECOND, limit=9)
                ).claims
            }
            at = claims["well"].occurrence
            run = Run(
                scheduled_at=at,
                started=at + 5 * SECOND,
                ended=at + 7 * SECOND,
                outcome=RunOutcome.FAILED,
                attempt=1,
                worker="host:1:abcd",
                error="ValueError: \x1b[31m no\nluck",
            )
            microseconds = to_microseconds(at)
            success = of_success(microseconds, microseconds + 5_000_000, microseconds + 7_000_000, 1, '"host:1:abcd"')
            await context.repository.settle(
                now + 2 * HOUR,
                [
                    Commit(claims["well"], Target(at + 9 * HOUR, at + 9 * HOUR), replace(Memo.read(success), skipped=8).text()),
                    Release(claims["ill"], now + 3 * HOUR, memo=Memo(run, 3).text()),
                ],
            )
            for name in ("away", "mute", "new"):
                await context.schedule_task(mail, name, interval=HOUR)
            await context.pause_task(mail, "away", note="it floods", by="ann")
            await context.pause_task(mail, "mute")

    asyncio.run(main())


def test_list_has_the_last_run_and_says_what_each_waits_for(pyncette, stored):  # noqa: F811
    lines = {line.split()[0]: line for line in pyncette("list", "shop:app", "mail").lines}
    assert re.search(rf"every 1:00:00 +{TIME} +{TIME} succeeded +scheduled$", lines["well"])
    assert re.search(rf" {TIME} failed, 3 in a row +retries at {TIME}$", lines["ill"])
    assert re.search(rf"every 1:00:00 +{TIME} +paused by ann: it floods$", lines["away"])
    assert re.search(r" paused$", lines["mute"])
    assert re.search(rf"every 1:00:00 +{TIME} +scheduled$", lines["new"])


def test_list_as_json_has_it_for_programs(pyncette, stored):  # noqa: F811
    found = {each["instance"]: each for each in pyncette("list", "shop:app", "mail", "--json").objects}
    run = found["ill"]["last_run"]
    assert (run["outcome"], run["attempt"], run["worker"], run["duration"], run["lateness"]) == ("failed", 1, "host:1:abcd", 2, 5)
    assert run["error"] == "ValueError: \x1b[31m no\nluck"
    assert found["ill"]["state"] == "retrying"
    assert found["ill"]["retries_at"] == found["ill"]["ready"]
    assert found["ill"]["failures"] == 3
    assert found["well"]["last_run"]["outcome"] == "succeeded"
    assert (found["well"]["skipped"], found["ill"]["skipped"]) == (8, 0)
    assert (found["well"]["failures"], found["well"]["retries_at"], found["well"]["note"]) == (0, None, None)
    assert (found["away"]["note"]["text"], found["away"]["note"]["by"]) == ("it floods", "ann")
    assert found["new"]["last_run"] is None


def test_show_has_all_of_it(pyncette, stored):  # noqa: F811
    def show(instance):
        return dict(re.split("  +", line, maxsplit=1) for line in pyncette("show", "shop:app", "mail", instance).lines)

    pairs = show("ill")
    assert re.fullmatch(rf"{TIME} failed, took 2.000 s, 5.000 s late, attempt 1, by host:1:abcd", pairs["last run"])
    assert pairs["last error"] == r"ValueError: \x1b[31m no\nluck"
    assert pairs["failures"] == "3"
    assert re.fullmatch(f"retries at {TIME}", pairs["state"])
    assert "last error" not in show("well")
    assert show("well")["skipped"] == "8 since the last run"
    assert "failures" not in show("well")
    assert re.fullmatch(f"by ann at {TIME}: it floods", show("away")["paused"])
    assert re.fullmatch(f"at {TIME}", show("mute")["paused"])
    assert "last run" not in show("new")
