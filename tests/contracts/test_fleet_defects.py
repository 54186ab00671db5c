"""``check_fleet_store`` finds a store that breaks one rule."""

import math

import pytest
from msgspec.structs import replace

from aluma_async.fleet.ports import Limits
from aluma_async.testing import SimulatedFleetStore, check_fleet_store
from tests.support.clock import virtual_time


class Defective(SimulatedFleetStore):
    """A store that breaks one rule."""


class OnlyAdds(Defective):
    """A full report does not replace earlier records."""

    async def sync(self, report):
        return await super().sync(replace(report, full=False))


class IgnoresSequence(Defective):
    """A late report is applied."""

    async def sync(self, report):
        self.number = getattr(self, "number", 0) + 1
        return await super().sync(replace(report, sequence=self.number))


class TakesOverPresentNodes(Defective):
    async def take_over(self, node_id, dead):
        return await super().take_over(node_id, replace(dead, is_present=True))


class TakesOverNodesThatReported(Defective):
    async def take_over(self, node_id, dead):
        for sequence in range(dead.sequence, dead.sequence + 3):
            if claims := await super().take_over(node_id, replace(dead, sequence=sequence)):
                return claims
        return ()


class ForgetsTakeOver(Defective):
    """A node that was taken over continues."""

    async def sync(self, report):
        return replace(await super().sync(report), taken_over=False)


class RefusesNothing(Defective):
    async def sync(self, report):
        return replace(await super().sync(report), refused=())


class ContestsNothing(Defective):
    async def sync(self, report):
        return replace(await super().sync(report), contested=())


class GrantsEverything(Defective):
    """A quota is not taken from the free part."""

    async def sync(self, report):
        return replace(await super().sync(report), quota=Limits(report.wanted.max_at_once, 0.0, math.inf))


class ListsInAllNodes(Defective):
    async def begin_listing(self, node_id, scope=""):
        await super().begin_listing(node_id, scope)
        return True


class ReturnsOldRows(Defective):
    """Rows published before a disconnection are returned after it."""

    async def sync(self, report):
        return await super().sync(replace(report, min_position=0))


class LosesMovedClaims(Defective):
    """A node whose call to take over was not answered never learns of the claims."""

    async def sync(self, report):
        return replace(await super().sync(report), moved=())


class IgnoresRelease(Defective):
    async def release_holds(self, task_ids):
        await super().release_holds(())


@pytest.mark.parametrize("defect", Defective.__subclasses__())
@virtual_time
async def test_check_fleet_store_finds_a_store_that_breaks_a_rule(defect):
    store = defect()
    with pytest.raises(AssertionError):
        await check_fleet_store(lambda: store)
