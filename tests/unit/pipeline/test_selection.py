"""A selection: which of the pending tasks a run may claim."""

import anyio
import pytest

from aluma_async import Exporter
from aluma_async.models import ExportTask
from aluma_async.pipeline.selection import SelectedSource, Selection
from aluma_async.testing import MemoryDestination, SimulatedAluma, SimulatedSource
from tests.support.clock import virtual_time

LISTED = [ExportTask(task_id) for task_id in "abcde"]


def select(selection, tasks=LISTED):
    return "".join(task.id for task in tasks if selection(task))


@pytest.mark.parametrize(
    ("arguments", "selected"),
    [
        ({}, "abcde"),
        ({"limit": 2}, "ab"),
        ({"limit": 9}, "abcde"),
        ({"task_ids": ["d", "b", "x"]}, "bd"),
        ({"task_ids": ["d", "b"], "limit": 1}, "b"),
        ({"limit": 2, "on_hold": ["a", "c"]}, "bd"),
        ({"task_ids": ["a"], "on_hold": ["a"]}, "a"),
    ],
)
def test_selection_selects_named_tasks_up_to_its_limit(arguments, selected):
    """The same ones again in later listings, in any order: none takes the place of a task that is exported."""
    selection = Selection(**arguments)
    assert select(selection) == selected
    assert select(selection, LISTED[::-1]) == selected[::-1]
    assert select(selection, LISTED[4:]) == "e" * ("e" in selected)


def test_selection_knows_the_named_tasks_that_are_absent():
    selection = Selection(["b", "x", "a"], on_hold=["a"])
    select(selection)
    assert selection.absent == ["x"]
    assert not selection.skipped


def test_selection_with_a_limit_skips_tasks_on_hold():
    """They are not absent; and a named task that was not reached is not absent either."""
    selection = Selection(["a", "b", "c", "x"], 1, on_hold=["a"])
    assert select(selection) == "b"
    assert selection.skipped == {"a"}
    assert selection.absent == []
    assert not selection.is_refused


@pytest.mark.parametrize("task_id", ["a", "x"])
def test_selection_is_refused_when_a_named_task_is_on_hold_or_absent(task_id):
    selection = Selection([task_id], 1, on_hold=["a"])
    select(selection)
    assert selection.is_refused


@virtual_time
async def test_exporter_claims_only_selected_tasks():
    source = SimulatedSource(SimulatedAluma(10, now=anyio.current_time))
    destination = MemoryDestination()
    summary = await Exporter(SelectedSource(source, Selection(limit=3)), destination, workers=8).run_until_drained()
    assert summary.exported == len(destination.tasks) == 3
    assert summary.everything_exported
