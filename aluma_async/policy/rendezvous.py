"""Which node of a fleet a task belongs to: rendezvous hashing, the same in every process.

A task id belongs to one of ``SLOTS`` slots, and a slot to the node with the highest hash for it. A new or lost node
moves only its own slots. Slots let a store select the tasks of a node without computing a hash.
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b, shake_128

SLOTS = 256
"""Number of slots."""
_WEIGHT_BYTES = 8


def slot_of(task_id: str) -> int:
    """Return the slot of a task id."""
    return blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]


def slot_owners(node_ids: Iterable[str]) -> list[str]:
    """Return the node of each slot; the order of ``node_ids`` does not matter. There must be at least one."""
    weights = {node_id: _weights(node_id) for node_id in sorted(set(node_ids))}
    return [max(weights, key=lambda node_id: weights[node_id][slot]) for slot in range(SLOTS)]


def owned_slots(node_id: str, node_ids: Iterable[str]) -> tuple[int, ...]:
    """Return the slots of a node; it is counted among ``node_ids`` in any case."""
    return _owned_slots(node_id, frozenset({node_id, *node_ids}))


@lru_cache(maxsize=64)
def _owned_slots(node_id: str, node_ids: frozenset[str]) -> tuple[int, ...]:
    return tuple(slot for slot, owner in enumerate(slot_owners(node_ids)) if owner == node_id)


@lru_cache(maxsize=1024)
def _weights(node_id: str) -> tuple[bytes, ...]:
    """Return the hash of a node for each slot."""
    digest = shake_128(node_id.encode("utf-8", "surrogatepass")).digest(SLOTS * _WEIGHT_BYTES)
    return tuple(digest[start : start + _WEIGHT_BYTES] for start in range(0, len(digest), _WEIGHT_BYTES))
