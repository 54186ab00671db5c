"""``Partition``: each task has exactly one process, and few tasks move when the number of processes changes."""

from collections import Counter

import pytest

from aluma_async.policy.partition import Partition, process_of

IDS = [f"task-{number:05}" for number in range(20_000)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_partition_gives_each_task_to_exactly_one_process(count):
    partitions = [Partition(number, count) for number in range(1, count + 1)]
    assert all(sum(one.contains(task_id) for one in partitions) == 1 for task_id in IDS[:50])


@pytest.mark.parametrize("count", [2, 3, 4, 16])
def test_partition_gives_each_process_an_equal_share(count):
    shares = Counter(process_of(task_id, count) for task_id in IDS)
    assert all(abs(share / (len(IDS) / count) - 1) < 0.15 for share in shares.values())
    assert len(shares) == count


@pytest.mark.parametrize(("before", "after"), [(2, 3), (4, 8)])
def test_partition_moves_tasks_only_to_new_processes(before, after):
    """Rendezvous hashing: other tasks keep their process, and so their journal."""
    pairs = [(process_of(task_id, before), process_of(task_id, after)) for task_id in IDS]
    assert all(new == old or new > before for old, new in pairs)
    assert any(new > before for _, new in pairs)


def test_partition_ignores_the_case_of_ids():
    """Copies of such tasks may need the same folder in the quarantine, so one process must choose their names."""
    assert all(process_of(task_id, 8) == process_of(task_id.upper(), 8) for task_id in IDS[:200])
    assert process_of("\udcff", 2) in (1, 2), "an id that is no text does not fail"


def test_processes_of_different_versions_agree():
    """During an update, processes of the earlier and of the next version run at the same time."""
    expected = [5, 4, 3, 2, 5, 2, 4, 1, 7, 1, 4, 4, 4, 7, 2, 5, 1, 5, 3, 7]
    assert [process_of(f"task-{number}", 7) for number in range(20)] == expected
