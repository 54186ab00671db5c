"""Start that is answered with the Export Specification of another task."""

import json

import pytest

from aluma_async.aluma import wire
from aluma_async.aluma.started_tasks import StartedTasks
from aluma_async.exceptions import Ambiguous
from aluma_async.models import ExportTask
from aluma_async.testing import FaultPlan
from aluma_async.testing.faults import WrongReply
from tests.support.clock import virtual_time
from tests.support.stack import client_of, list_tasks, simulated

OWN = ExportTask("t1", collection_id="c1")
OTHER = ExportTask("t2", collection_id="c2")


def file(url, content=None):
    return {"filename": "a", "source": "url" if url else "content", "url": url, "content": content}


def is_of_another_task(*files, task=OWN, **fields):
    started = StartedTasks()
    started.add(OTHER)
    started.add(task)
    documents = fields.pop("documents", [{"files": list(files) or [file(None, "text")]}])
    body = json.dumps({"documents": documents, **fields}).encode()
    return started.is_of_another_task(task, wire.export_spec(body))


@pytest.mark.parametrize(
    "url", ["/file_collections/c2/files/f", "file_collections/c2/files/f", "https://a.b/v1/file_collections/c2/files/f"]
)
def test_specification_with_the_files_of_another_task_is_of_that_task(url):
    assert is_of_another_task(file(url))
    assert is_of_another_task(file(None, "a,b"), file("/file_collections/c1/files/f"), file(url))


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "t2"},
        {"id": "c2"},
        {"task_id": "t2"},
        {"task_id": "unknown"},
        {"taskId": "unknown"},
        {"task_id": 2},
        {"documents": [{"task_id": "t2", "files": [file(None, "a")]}]},
        {"documents": [{"files": [file(None, "a")]}, {"taskId": "x", "files": [file(None, "a")]}]},
    ],
)
def test_specification_with_the_id_of_another_task_is_of_that_task(fields):
    assert is_of_another_task(**fields)


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ([file("/file_collections/c1/files/f")], {}),
        ([file("/file_collections/unknown/files/f")], {}),  # the listing may name another collection
        ([file("/files/c2")], {}),
        ([file("/files?id=c2")], {}),
        ([file(None, '{"task_id": "t2", "id": "t2"}')], {}),
        ([file(None, "id")], {"title": "task_id"}),
        ([], {"id": "t1", "task_id": "t1", "taskId": "t1"}),
        ([], {"id": "of the specification"}),
        ([], {"id": None, "task_id": "", "taskId": 0}),
        ([], {"documents": [{"id": 1, "files": [file(None, "a")]}]}),
        ([], {"documents": [{"id": "\ud800", "files": [file(None, "\ud800")]}]}),
    ],
)
def test_specification_may_be_right(files, fields):
    assert not is_of_another_task(*files, **fields)


def test_task_without_a_known_collection_may_have_any():
    assert not is_of_another_task(file("/file_collections/c2/files/f"), task=ExportTask("t1"))


def test_tasks_may_share_a_collection():
    assert not is_of_another_task(file("/file_collections/c2/files/f"), task=ExportTask("t1", collection_id="c2"))


def test_started_tasks_are_limited():
    started = StartedTasks()
    for number in range(10_001):
        started.add(ExportTask(f"t{number}", collection_id=f"c{number}"))
    for number, is_known in ((0, False), (1, True)):
        body = json.dumps({"documents": [{"files": [file(f"/file_collections/c{number}/files/f")]}]}).encode()
        mine = ExportTask("x", collection_id="y")
        assert started.is_of_another_task(mine, wire.export_spec(body)) == is_known
        body = json.dumps({"documents": [{"id": f"t{number}", "files": [file("/f")]}]}).encode()
        assert started.is_of_another_task(mine, wire.export_spec(body)) == is_known


@virtual_time
async def test_start_raises_when_the_reply_is_that_of_another_task():
    """The task may be claimed, and nothing of the other task is stored under its name."""
    aluma, faults = simulated(3), FaultPlan()
    async with client_of(aluma, faults) as client:
        first, second, _ = await list_tasks(client)
        await client.start(first)
        faults.plan("start", [WrongReply.OTHER_SPECIFICATION])
        with pytest.raises(Ambiguous, match="of another task"):
            await client.start(second)
        assert aluma.counts["start"] == 2
        await client.cancel(second)
        assert (await client.start(second)).spec.received == aluma.specification(second.id)
