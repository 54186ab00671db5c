"""``StartedTasks``: recognises the Export Specification of another task, as a reply that a proxy has mixed up. Pure.

A specification does not name its task. But the URLs of its files contain the id of a file collection, and the listing
names that of each task. A specification belongs to another task if its collection is not the task's own one, but that
of another task that this client has started; a further collection may be right. So may an unknown field ``id``, unless
it is the id of such a task.

Not recognised: a specification whose files have no URLs, and one of a task that only another client has started.
"""

import re
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct, field

from aluma_async.aluma.tolerant_json import UNREADABLE
from aluma_async.models import ExportSpec, ExportTask

_COLLECTION = re.compile(r"(?:\A|/)file_collections/([^/?#]+)/").search


class _Ids(Struct):
    id: Any = None
    task_id: Any = None
    camel_case_task_id: Any = field(default=None, name="taskId")


class _Specification(_Ids):
    documents: list[_Ids] = []


_ids = msgspec.json.Decoder(_Specification).decode


class StartedTasks:
    """The tasks that were started last."""

    MAX_TASKS = 10_000

    def __init__(self) -> None:
        self._owners: OrderedDict[str, str] = OrderedDict()  # the id of the task, by its own and its collection's id

    def add(self, task: ExportTask) -> None:
        """Add a task, before Start is sent for it."""
        owners = self._owners
        owners[task.id] = task.id
        if task.collection_id:
            owners[task.collection_id] = task.id
        while len(owners) > 2 * self.MAX_TASKS:
            owners.popitem(last=False)

    def is_of_another_task(self, task: ExportTask, spec: ExportSpec) -> bool:
        """Return whether a specification that was received for ``task`` certainly belongs to another task."""
        own = task.collection_id
        for file in spec.files:
            if (
                own
                and file.url
                and (match := _COLLECTION(file.url))
                and match[1] != own
                and self._is_others(match[1], task)
            ):
                return True
        body = spec.received
        if b'"id"' in body or b'"task_id"' in body or b'"taskId"' in body:  # in a text, the quotes are escaped
            return self._names_another_task(task, body)
        return False

    def _is_others(self, some_id: str, task: ExportTask) -> bool:
        return self._owners.get(some_id, task.id) != task.id

    def _names_another_task(self, task: ExportTask, body: bytes) -> bool:
        with suppress(*UNREADABLE):
            specification = _ids(body)
            for ids in (specification, *specification.documents):
                if self._is_others(str(ids.id), task) or any(
                    name and str(name) != task.id for name in (ids.task_id, ids.camel_case_task_id)
                ):
                    return True
        return False
