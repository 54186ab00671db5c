"""Pipeline, client and folder with the simulated Aluma over HTTP, with faults, in virtual time."""

import random
from collections import Counter

import anyio
import pytest

from aluma_async import Exporter, FolderDestination
from aluma_async.pipeline.throttle import Throttle
from aluma_async.testing import Fault, FaultPlan
from tests.support.clock import virtual_time
from tests.support.stack import client_of, simulated


@pytest.mark.parametrize("seed", range(25))
@virtual_time
async def test_exporter_exports_every_byte_of_every_task_under_faults(seed, tmp_path):
    """In the end there is no staged file and no permit, and the limit of requests was kept."""
    rng = random.Random(seed)
    aluma = simulated(
        20,
        rng.choice(["small", "mixed"]),
        seed=seed,
        latency_seconds=rng.choice([0, 0.1]),
        framing=rng.choice(["length", "chunked"]),
        conflict_status=rng.choice([400, 404, 409, 412, 422]),
        repeated_complete_accepted=rng.random() < 0.5,
        list_stale_seconds=rng.choice([0, 5]),
        max_listed=rng.choice([0, 7]),
        token_seconds=rng.choice([60, 86400]),
    )
    rates = {fault: rng.choice([0, 0, 0.02, 0.1]) for fault in Fault}
    faults = FaultPlan(rates, seed=seed, burst=rng.random() / 2)
    faults.plan("token", [None])  # because a run without a token fails; another test covers that
    faults.plan("list", [None])
    throttle = Throttle(6, uniform=rng.uniform, on_event=lambda _: None)
    destination = FolderDestination(tmp_path)
    async with client_of(aluma, faults, request_limiter=throttle) as client:
        exporter = Exporter(client, destination, workers=8, uniform=rng.uniform)
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            while aluma.count_by_state() != {"completed": 20} and anyio.current_time() < 12 * 3600:  # noqa: ASYNC110
                await anyio.sleep(60)
            await anyio.sleep(1800)
            exporter.stop()
    destination.close()
    assert aluma.count_by_state() == {"completed": 20}, rates
    expected = Counter(data for task_id in aluma.ids() for _, _, data in aluma.expected(task_id))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and ".aluma-async" not in path.parts]
    assert Counter(path.read_bytes() for path in files) == expected
    assert not list((tmp_path / ".aluma-async" / "staging").iterdir())
    assert aluma.in_flight_peak <= 6
    assert throttle.in_flight == 0
