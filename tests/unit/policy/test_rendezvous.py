"""Rendezvous hashing: every process computes the same owner, and a change moves few tasks."""

import subprocess
import sys
from collections import Counter

from aluma_async.policy.rendezvous import SLOTS, owned_slots, slot_of, slot_owners

NODES = [f"host-{number}" for number in range(8)]


def test_slot_owners_are_the_same_in_every_process():
    """Python's own hash of a text differs between processes."""
    code = (
        "from aluma_async.policy.rendezvous import slot_of, slot_owners\n"
        "print([slot_of('task-1'), slot_of('ü\\ud800')], slot_owners(['a', 'b', 'c']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip() == f"{[slot_of('task-1'), slot_of('ü' + chr(0xD800))]} {slot_owners(['c', 'a', 'b', 'a'])}"
    )


def test_owned_slots_have_one_owner_each():
    owned = [slot for node in NODES for slot in owned_slots(node, NODES)]
    assert sorted(owned) == list(range(SLOTS))
    assert owned_slots("alone", []) == tuple(range(SLOTS))


def test_slot_owners_share_the_tasks_evenly():
    """No node gets more than twice its part; the others take the rest of it."""
    owners = slot_owners(NODES)
    tasks = Counter(owners[slot_of(f"task-{number}")] for number in range(8000))
    assert set(tasks) == set(NODES)
    assert max(tasks.values()) < 2000


def test_slot_owners_move_only_the_slots_of_a_lost_node():
    before, after = slot_owners(NODES), slot_owners(NODES[1:])
    assert all(old == new for old, new in zip(before, after, strict=True) if old != NODES[0])
