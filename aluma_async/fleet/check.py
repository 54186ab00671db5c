"""``check_store``: tries the store of a fleet as a node does, for ``aluma-async check``."""

import math
import secrets

from aluma_async.fleet.ports import FleetStore, Limits, NodeReport


async def check_store(store: FleetStore) -> list[str]:
    """Report as a node that leaves at once; return warnings. Raises ``FleetStoreError``."""
    node_id, unlimited = f"check-{secrets.token_hex(4)}", Limits(math.inf)
    report = NodeReport(node_id=node_id, sequence=1, limits=unlimited, wanted=Limits(0.0), held=Limits(0.0))
    async with store.subscribe(node_id):
        await store.sync(report)
        try:
            view = await store.inspect()
        finally:
            await store.sync(NodeReport(node_id=node_id, sequence=2, limits=unlimited, held=Limits(0.0), leaving=True))
    warnings = []
    if not any(node.node_id == node_id and node.is_present for node in view.nodes):
        warnings.append("the store does not show who is connected: a dead exporter is noticed after silent_seconds")
    return warnings + await getattr(store, "warnings", _no_warnings)()


async def _no_warnings() -> list[str]:
    return []
