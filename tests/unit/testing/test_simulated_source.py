"""``SimulatedSource``: the simulated Aluma in memory."""

from aluma_async.testing import SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import list_tasks, simulated


@virtual_time
async def test_simulated_source_lists_all_tasks_of_a_long_listing():
    """It is decoded in several windows."""
    assert len(await list_tasks(SimulatedSource(simulated(3000)))) == 3000
