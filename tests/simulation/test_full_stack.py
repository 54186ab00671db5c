"""The shipped pipeline, client and folder against the simulated Aluma over HTTP, in virtual time, under faults."""

import random
from collections import Counter

import anyio
import pytest

from aluma_async import Exporter, FolderDestination
from aluma_async.pipeline.throttle import Throttle
from aluma_async.testing import Fault, FaultPlan, run_virtual
from tests.support.stack import client_of, simulated


@pytest.mark.parametrize("seed", range(25))
def test_whatever_goes_wrong_every_task_ends_exported_with_every_byte(seed, tmp_path):
    """And no claim runs out, no limit is passed, no staged file and no permit is left."""

    async def main():
        chance = random.Random(seed)
        aluma = simulated(
            20,
            chance.choice(["small", "mixed"]),
            seed=seed,
            latency_seconds=chance.choice([0, 0.1]),
            framing=chance.choice(["length", "chunked"]),
            conflict_status=chance.choice([400, 404, 409, 422]),
            repeated_complete_accepted=chance.random() < 0.5,
            list_stale_seconds=chance.choice([0, 5]),
            max_listed=chance.choice([0, 7]),
            token_seconds=chance.choice([60, 86400]),
        )
        rates = {fault: chance.choice([0, 0, 0.02, 0.1]) for fault in Fault}
        faults = FaultPlan(rates, seed=seed, burst=chance.random() / 2)
        faults.plan("token", [None])  # a run that cannot begin says so, and that is another test
        faults.plan("list", [None])
        throttle = Throttle(6, uniform=chance.uniform, on_event=lambda _: None)
        destination = FolderDestination(tmp_path)
        async with client_of(aluma, faults, request_limiter=throttle) as client:
            exporter = Exporter(client, destination, workers=8, uniform=chance.uniform)
            async with anyio.create_task_group() as group:
                group.start_soon(exporter.run)
                await anyio.sleep(12 * 3600)
                exporter.stop()
        destination.close()
        assert aluma.count_by_state() == {"completed": 20}, rates
        expected = Counter(data for task_id in aluma.ids() for _, _, data in aluma.expected(task_id))
        files = [path for path in tmp_path.rglob("*") if path.is_file() and ".aluma-async" not in path.parts]
        assert Counter(path.read_bytes() for path in files) == expected
        assert not list((tmp_path / ".aluma-async" / "staging").iterdir())
        assert aluma.in_flight_peak <= 6
        assert throttle.in_flight == 0

    run_virtual(main)
