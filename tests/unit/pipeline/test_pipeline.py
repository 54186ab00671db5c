"""The exporter in virtual time: the simulated Aluma in memory, a destination in memory."""

import json
import random
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from aluma_async import Backoff, Exporter, FolderDestination, RetryPolicy, events
from aluma_async.exceptions import DestinationError, DestinationUnavailable, SourceError, Unreachable
from aluma_async.models import ExportFile, ExportSpec
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource, check_task_source, run_virtual
from tests.support.stack import simulated


class World:
    """An Aluma, a destination and an exporter between them; events are kept."""

    def __init__(self, tasks=10, *, faults=None, source=SimulatedSource, profile="mixed", exporter=None, **behaviour):
        self.aluma = simulated(tasks, profile, **behaviour)
        self.destination, self.quarantine = MemoryDestination(), MemoryDestination()
        self.told: list[events.Event] = []
        self.exporter = Exporter(
            source(self.aluma, faults),
            self.destination,
            quarantine=self.quarantine,
            on_event=self.told.append,
            uniform=random.Random(0).uniform,
            **(exporter or {}),
        )

    def count(self, kind):
        return sum(isinstance(event, kind) for event in self.told)

    def check(self):
        """What must hold after every run, whatever happened."""
        for task_id in self.aluma.ids("completed"):
            expected = Counter(self.aluma.expected(task_id))
            stored = Counter((f, n, data) for (f, n, _), data in self.destination.tasks[task_id].items())
            assert stored == expected
        assert not self.aluma.ids("pending:complete_client_action"), "nothing is left claimed"
        assert not self.exporter.tasks_in_progress
        assert not self.destination.open_deliveries
        assert not self.aluma.counts["requeued"]


def test_the_simulated_source_keeps_the_contract_of_a_task_source():
    async def main():
        await check_task_source(SimulatedSource(simulated(3)))

    run_virtual(main)


def test_every_task_that_waits_is_exported_with_every_byte():
    async def main():
        world = World(50)
        summary = await world.exporter.run_until_drained()
        world.check()
        assert summary.everything_exported
        assert summary.exported == 50
        assert summary.bytes == sum(len(d) for i in world.aluma.ids() for _, _, d in world.aluma.expected(i))
        assert world.aluma.count_by_state() == {"completed": 50}

    run_virtual(main)


def test_a_backlog_is_listed_once_not_once_a_batch():
    async def main():
        world = World(500, profile="small", latency_seconds=0.05)
        await world.exporter.run_until_drained()
        assert world.aluma.counts["list"] == 2  # the second finds nothing more

    run_virtual(main)


def test_no_worker_waits_for_the_slowest_task_of_a_batch():
    """One download of 100 s among short ones does not hold the others up."""

    class OneSlow(SimulatedSource):
        @asynccontextmanager
        async def open_file(self, claim, file):
            if claim.task.id == self._aluma.ids()[0]:
                await anyio.sleep(100)
            async with super().open_file(claim, file) as chunks:
                yield chunks

    async def main():
        world = World(200, source=OneSlow, profile="small", latency_seconds=0.1)
        summary = await world.exporter.run_until_drained()
        assert 100 < summary.seconds < 101

    run_virtual(main)


def test_workers_are_the_limit_of_tasks_that_are_saved_at_once_and_none_waits_for_a_complete():
    class Counting(MemoryDestination):
        now = peak = 0

        @asynccontextmanager
        async def open(self, claim):
            self.now += 1
            self.peak = max(self.peak, self.now)
            async with super().open(claim) as delivery:
                yield delivery
            self.now -= 1

    async def main():
        world = World(100, profile="small", latency_seconds=0.1, exporter={"workers": 7})
        world.exporter._worker._destination = counting = Counting()
        summary = await world.exporter.run_until_drained()
        assert counting.peak == 7
        assert world.aluma.in_flight_peak <= 2 * 7, "claims are limited, too"
        ideal = 100 / 7 * 2 * 0.1
        assert ideal <= summary.seconds < ideal * 1.2

    run_virtual(main)


def test_a_task_with_more_to_download_than_a_claim_lasts_is_finished_in_several_attempts(tmp_path):
    """Eight files of 900 s each, four at a time; after 1,500 s a claim is given back."""

    class Slow(SimulatedSource):
        downloads = 0

        async def start(self, task):
            claim = await super().start(task)
            files = (ExportFile(number, 0, "", f"{number}.pdf", "url", url="/f") for number in range(8))
            return msgspec.structs.replace(claim, spec=ExportSpec(tuple(files), b"the same"))

        @asynccontextmanager
        async def open_file(self, claim, file):
            async def chunks():
                await anyio.sleep(900)
                self.downloads += 1
                yield bytes([file.number]) * 1_200_000

            yield chunks()

    async def main():
        aluma, folder = simulated(1), FolderDestination(tmp_path)
        source = Slow(aluma)
        exporter = Exporter(source, folder)
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            await anyio.sleep(3000)
            exporter.stop()
        folder.close()
        assert aluma.count_by_state() == {"completed": 1}
        assert source.downloads == 8
        assert {path.name: path.read_bytes()[-1] for path in tmp_path.glob("*.pdf")} == {
            f"{number}.pdf": number for number in range(8)
        }

    run_virtual(main)


def test_a_complete_that_takes_long_holds_up_only_so_many_claims():
    class SlowComplete(SimulatedSource):
        open = peak = 0

        async def start(self, task):
            self.open += 1
            type(self).peak = max(self.peak, self.open)
            return await super().start(task)

        async def complete(self, task):
            await anyio.sleep(20)
            await super().complete(task)
            self.open -= 1

    async def main():
        world = World(40, source=SlowComplete, profile="small", exporter={"workers": 3})
        await world.exporter.run_until_drained()
        assert SlowComplete.peak == 6
        world.check()

    run_virtual(main)


def test_a_task_that_is_listed_twice_is_exported_once():
    class Doubled(SimulatedSource):
        async def list_pending(self):
            async for tasks in super().list_pending():
                yield [*tasks, *tasks]

    async def main():
        world = World(30, source=Doubled)
        await world.exporter.run_until_drained()
        assert world.aluma.counts["start"] == 30
        assert not world.count(events.ClaimRefused)

    run_virtual(main)


def test_a_listing_that_lags_behind_does_not_start_a_task_again():
    """Complete is answered 202, accepted: the task may be listed for some time."""

    async def main():
        world = World(30, list_stale_seconds=5)
        await world.exporter.run_until_drained()
        assert world.aluma.counts["start"] == 30

    run_virtual(main)


def test_a_transient_error_is_cancelled_and_the_task_cools_down_twice_as_long_each_time():
    class Broken(MemoryDestination):
        @asynccontextmanager
        async def open(self, claim):
            raise DestinationError("not now")
            yield

    async def main():
        world = World(1, exporter={"cooldown": Backoff(60, 3600, jitter=0)})
        world.exporter._worker._destination = Broken()
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            await anyio.sleep(700)
            world.exporter.stop()
        cancelled = [event for event in world.told if isinstance(event, events.TaskCancelled)]
        assert [(event.failures, event.retry_in) for event in cancelled] == [(1, 60), (2, 120), (3, 240), (4, 480)]
        assert world.aluma.counts["start"] == world.aluma.counts["cancel"] == 4
        world.check()

    run_virtual(main)


def test_a_run_until_drained_does_not_wait_for_what_cools_down_and_says_so():
    async def main():
        faults = FaultPlan()
        faults.plan("file", [Fault.DROP_BEFORE] * 5)
        world = World(10, faults=faults, profile="small", exporter={"workers": 1})
        summary = await world.exporter.run_until_drained()
        assert (summary.exported, summary.cancelled, summary.held_back) == (9, 1, 1)
        assert not summary.everything_exported
        world.check()

    run_virtual(main)


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.ERROR_BEFORE, Fault.TRUNCATE, Fault.DROP_AFTER])
def test_a_broken_download_is_begun_anew_and_the_file_is_whole(fault):
    async def main():
        faults = FaultPlan()
        faults.plan("file", [fault] * 3)
        world = World(1, faults=faults, profile="small")
        summary = await world.exporter.run_until_drained()
        assert summary.everything_exported
        assert world.count(events.RequestRetried) == 3
        world.check()

    run_virtual(main)


def test_a_start_whose_reply_is_lost_is_given_back_and_never_blindly_repeated():
    async def main():
        for fault in (Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_AFTER, Fault.TRUNCATE):
            faults = FaultPlan()
            faults.plan("start", [fault])
            world = World(1, faults=faults)
            summary = await world.exporter.run_until_drained()
            assert summary.held_back == 1
            assert world.aluma.counts["start"] <= 1
            world.check()

    run_virtual(main)


@pytest.mark.parametrize("fault", [Fault.DROP_AFTER, Fault.ERROR_AFTER, Fault.DROP_BEFORE, Fault.THROTTLE])
def test_a_complete_whose_reply_is_lost_is_repeated_and_counts_as_done(fault):
    async def main():
        faults = FaultPlan()
        faults.plan("complete", [fault])
        world = World(1, faults=faults)
        summary = await world.exporter.run_until_drained()
        assert summary.exported == world.aluma.counts["complete"] == 1
        assert not world.aluma.counts["cancel"]
        world.check()

    run_virtual(main)


def test_a_claim_that_ended_without_us_is_neither_cancelled_nor_failed():
    class Robbed(SimulatedSource):
        async def complete(self, task):
            self._aluma.cancel(task.id)  # somebody else's
            await super().complete(task)

    async def main():
        world = World(1, source=Robbed)
        summary = await world.exporter.run_until_drained()
        assert summary.lost == 1
        assert world.aluma.counts["cancel"] == 1
        assert len(world.destination.tasks) == 1, "what was saved stays"

    run_virtual(main)


def test_two_exporters_on_one_account_share_the_work():
    async def main():
        world = World(40, latency_seconds=0.05)
        other = Exporter(SimulatedSource(world.aluma), world.destination, uniform=random.Random(1).uniform)
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run_until_drained)
            group.start_soon(other.run_until_drained)
        assert world.aluma.count_by_state() == {"completed": 40}
        assert world.aluma.counts["start"] == 40
        world.check()

    run_virtual(main)


class Impossible(SimulatedSource):
    """The first task's specification asks for what can never be done."""

    async def start(self, task):
        claim = await super().start(task)
        if task.id != self._aluma.ids()[0]:
            return claim
        bad = ExportFile(len(claim.spec.files), 0, "f", "x", "url", problem="unknown source 'fax'")
        return type(claim)(task, ExportSpec((*claim.spec.files, bad), claim.spec.received), claim.sent_at)


def test_a_fatal_task_is_failed_only_after_all_it_holds_is_in_the_quarantine():
    async def main():
        world = World(3, source=Impossible)
        summary = await world.exporter.run_until_drained()
        assert (summary.exported, summary.failed) == (2, 1)
        bad = world.aluma.ids("failed")[0]
        assert "fax" in world.aluma.messages[bad]
        saved = world.quarantine.tasks[bad]
        names = [name for _, name, _ in saved]
        assert {"specification.json", "quarantine.json"} < set(names)
        expected = [data for _, _, data in world.aluma.expected(bad)]
        assert Counter(expected) <= Counter(saved.values())
        world.check()

    run_virtual(main)


def test_the_quarantine_is_a_folder_that_a_person_can_read(tmp_path):
    """Made when it is needed; below the task's id the files under their names, the specification, and what happened."""

    async def main():
        folder = FolderDestination(tmp_path / "state" / "quarantine")
        aluma = simulated(1)
        exporter = Exporter(Impossible(aluma), MemoryDestination(), quarantine=folder)
        assert (await exporter.run_until_drained()).failed == 1
        folder.close()
        (task_id,) = aluma.ids("failed")
        saved = tmp_path / "state" / "quarantine" / task_id
        for _, name, data in aluma.expected(task_id):
            assert (saved / "files" / name).read_bytes() == data
        record = json.loads((saved / "quarantine.json").read_text())
        assert record["task"]["id"] == task_id
        assert "fax" in record["message"]
        assert [file["missing"] for file in record["files"]] == ["", "", "unknown source 'fax'"]
        assert json.loads((saved / "specification.json").read_text())["documents"]

    run_virtual(main)


def test_a_fatal_task_that_cannot_be_quarantined_is_parked_and_not_failed():
    async def main():
        world = World(3, source=Impossible, exporter={"park_seconds": 9999})
        world.quarantine.unavailable = True
        summary = await world.exporter.run_until_drained()
        assert (summary.exported, summary.failed, summary.held_back) == (2, 0, 1)
        assert world.count(events.QuarantineFailed) == 1
        assert [event.hold.seconds for event in world.told if isinstance(event, events.TaskParked)] == [9999]
        world.check()

    run_virtual(main)


def test_a_defect_in_a_plug_in_costs_one_task_and_not_the_run():
    class Defective(MemoryDestination):
        def open(self, claim):
            return super().open(claim) if len(self.tasks) != 1 else 1 / 0

    async def main():
        world = World(5, exporter={"workers": 1})
        world.exporter._worker._destination = broken = Defective()
        summary = await world.exporter.run_until_drained()
        assert summary.exported == 1
        assert summary.held_back == 4
        assert len(broken.tasks) == 1

    run_virtual(main)


def test_a_listener_that_breaks_breaks_nothing():
    async def main():
        aluma = simulated(5)
        exporter = Exporter(SimulatedSource(aluma), MemoryDestination(), on_event=lambda event: 1 / 0)
        assert (await exporter.run_until_drained()).exported == 5

    run_virtual(main)


def test_listings_that_bring_nothing_grow_rarer_up_to_the_maximum():
    async def main():
        world = World(1, exporter={"polling": Backoff(2, 60, jitter=0)})
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            await anyio.sleep(3600)
            world.exporter.stop()
        # 1 with work, 1 at once after it, then after 2, 4, 8, 16, 32, 60, 60, ... seconds
        assert 60 <= world.aluma.counts["list"] <= 70

    run_virtual(main)


def test_tasks_that_fail_at_once_do_not_make_it_list_in_a_tight_loop():
    async def main():
        faults = FaultPlan({Fault.ERROR_BEFORE: 1.0})
        faults.plan("list", [None] * 1000)
        world = World(50, faults=faults, exporter={"cooldown": Backoff(1, 1), "retry": RetryPolicy(1)})
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            await anyio.sleep(600)
            world.exporter.stop()
        assert world.aluma.counts["list"] < 60

    run_virtual(main)


def test_a_run_that_cannot_begin_says_why():
    async def main():
        world = World(1)
        world.destination.unavailable = True
        with pytest.raises(DestinationUnavailable):
            await world.exporter.run()
        for run in ("run", "run_until_drained"):
            faults = FaultPlan()
            faults.plan("list", [Fault.DROP_BEFORE] * 9)
            with pytest.raises(SourceError):
                await getattr(World(1, faults=faults).exporter, run)()

    run_virtual(main)


def test_a_listing_that_fails_later_is_made_again():
    async def main():
        faults = FaultPlan()
        faults.plan("list", [None, None] + [Fault.DROP_BEFORE] * 6)
        world = World(1, faults=faults)
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            await anyio.sleep(300)
            assert world.count(events.ListingFailed) == 1
            world.exporter.stop()
        assert world.aluma.counts["list"] > 3

    run_virtual(main)


class Away(SimulatedSource):
    """Aluma cannot be reached for two hours, from the tenth Start on."""

    async def start(self, task):
        if self._aluma.counts["start"] >= 10 and anyio.current_time() < 7200:
            raise Unreachable("nobody there")
        return await super().start(task)


def test_while_aluma_is_away_the_backlog_is_not_churned_through_and_no_task_is_blamed():
    async def main():
        world = World(500, source=Away, profile="small", latency_seconds=0.1, exporter={"workers": 4})
        with pytest.raises(Unreachable):
            await world.exporter.run_until_drained()
        assert world.count(events.RequestRetried) <= 4 * 4
        world.check()

        world = World(500, source=Away, profile="small", latency_seconds=0.1, exporter={"workers": 4})
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            await anyio.sleep(7200 + 120)
            world.exporter.stop()
        assert world.aluma.count_by_state() == {"completed": 500}, "it goes on by itself"
        assert not world.count(events.TaskCancelled)
        assert world.aluma.counts["list"] < 150

    run_virtual(main)


@pytest.mark.parametrize(("first", "then"), [(4, 12), (12, 4), (12, 1)])
def test_an_exporter_can_be_resized_while_it_runs_and_no_claim_is_dropped(first, then):
    """From a moment on so many tasks are saved at once; up to as many claims more are being completed."""

    async def main():
        world = World(400, profile="small", latency_seconds=1, exporter={"workers": first})
        peaks = []

        async def watch(seconds):
            most = 0
            for _ in range(seconds * 10):
                most = max(most, world.destination.open_deliveries)
                await anyio.sleep(0.1)
            peaks.append(most)

        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            await watch(20)
            world.exporter.set_workers(then)
            await anyio.sleep(10)
            await watch(20)
            world.exporter.set_workers(first)
            world.exporter.set_workers(8)
            await anyio.sleep(10)
            await watch(20)
            world.exporter.stop()
        assert peaks == [first, then, 8]
        assert not world.aluma.counts["cancel"]
        assert not world.count(events.TaskReleased)
        world.check()

    run_virtual(main)


def test_an_exporter_can_be_resized_before_it_runs():
    async def main():
        for first, then in ((2, 6), (6, 2)):
            world = World(40, profile="small", latency_seconds=1, exporter={"workers": first})
            world.exporter.set_workers(then)
            async with anyio.create_task_group() as group:
                group.start_soon(world.exporter.run_until_drained)
                await anyio.sleep(3.5)
                assert world.destination.open_deliveries <= then
            world.check()
            assert world.aluma.count_by_state() == {"completed": 40}

    run_virtual(main)


def test_stop_finishes_what_is_in_hand_and_claims_nothing_new():
    async def main():
        world = World(100, profile="small", latency_seconds=1)
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            await anyio.sleep(5.5)
            started = world.aluma.counts["start"]
            world.exporter.stop()
        assert world.aluma.counts["start"] == world.aluma.counts["complete"] == started < 100
        assert not world.aluma.counts["cancel"]
        world.check()

    run_virtual(main)


@pytest.mark.parametrize("at", [0.5, 1.5, 2.5, 3.5, 4.2])
def test_what_does_not_finish_in_the_drain_time_is_given_back(at):
    """Whenever it comes: nothing is left claimed, and a Start under way is awaited and given back."""

    async def main():
        world = World(100, profile="small", latency_seconds=1, exporter={"drain_timeout": 0.1})
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            await anyio.sleep(at)
            world.exporter.stop()
        world.check()
        assert world.aluma.counts["start"] == world.aluma.counts["complete"] + world.aluma.counts["cancel"]

    run_virtual(main)


def test_whenever_the_host_cancels_the_run_nothing_is_left_claimed():
    async def main():
        for tenths in range(0, 80, 3):
            world = World(40, profile="small", latency_seconds=1)
            with anyio.move_on_after(tenths / 10):
                await world.exporter.run()
            world.check()

    run_virtual(main)


@pytest.mark.parametrize("seed", range(40))
def test_under_faults_of_all_kinds_nothing_is_lost_and_in_the_end_all_is_exported(seed):
    async def main():
        kinds = [fault for fault in Fault if fault is not Fault.UNAUTHORISED]
        chance = random.Random(seed)
        rates = {kind: chance.choice([0, 0, 0.02, 0.1]) for kind in kinds}
        faults = FaultPlan(rates, seed=seed, burst=chance.choice([0, 0.5]))
        world = World(15, faults=faults, profile="small", seed=seed, latency_seconds=0.1)
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            await anyio.sleep(6 * 3600)
            world.exporter.stop()
        for task_id in world.aluma.ids("completed"):
            assert Counter(data for _, _, data in world.aluma.expected(task_id)) == Counter(
                world.destination.tasks[task_id].values()
            )
        assert world.aluma.count_by_state() == {"completed": 15}

    run_virtual(main)


def test_two_exporters_run_side_by_side_in_one_loop():
    async def main():
        one, other = World(10), World(20)
        async with anyio.create_task_group() as group:
            group.start_soon(one.exporter.run_until_drained)
            group.start_soon(other.exporter.run_until_drained)
        one.check()
        other.check()
        assert len(one.destination.tasks) == 10
        assert len(other.destination.tasks) == 20

    run_virtual(main)
