"""``SimulatedAluma``: Aluma's tasks API as a pure state machine, based on its public guide.

Behaviour that the guide does not define is a field of ``Behaviour``. The state machine does no I/O; its clock is an
argument (``now``). ``SimulatedSource`` makes it accessible in memory, ``simulated_app`` over HTTP.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec

from aluma_async.models import TaskState
from aluma_async.testing.behaviour import Behaviour, SpecQuirk
from aluma_async.testing.faults import AnyFault, WrongReply
from aluma_async.testing.sample_data import Profile, SampleData, SampleFile

_HARMLESS_QUIRKS = (SpecQuirk.ABSOLUTE_URL, SpecQuirk.RELATIVE_URL)
_INVALID_TEXT = b'{"folder":"","filename":"note.txt","source":"content","content":"%d unpaired \\ud800","url":null}'
"""A file with half of a surrogate pair: a valid JSON string, but no valid Unicode."""


class StateConflict(Exception):
    """The task's state does not allow the request."""


class NotFound(Exception):
    """No such task or file exists."""


class _Task:
    """The variable state of a task; everything else is generated from its number."""

    __slots__ = ("changed_at", "number", "state")

    def __init__(self, number: int) -> None:
        self.number = number
        self.state: str = TaskState.PENDING
        self.changed_at = float("-inf")


class SimulatedAluma:
    """An account with pending tasks.

    Args:
        tasks: Number of tasks.
        seed: Seed of the tasks and files.
        profile: Kind of files.
        behaviour: Settings for undocumented behaviour.
        now: Clock in seconds, from any start.
    """

    client_id = "simulated-client"
    client_secret = "simulated-secret"  # noqa: S105 - opens nothing real

    def __init__(
        self,
        tasks: int = 100,
        *,
        seed: int = 0,
        profile: Profile = "mixed",
        behaviour: Behaviour = Behaviour(),  # noqa: B008 - frozen
        now: Callable[[], float],
    ) -> None:
        self.behaviour = behaviour
        self.sample_data = SampleData(seed, profile)
        self.counts: Counter[str] = Counter()
        """Executed requests by verb; ``requeued`` counts expired claims."""
        self.messages: dict[str, str] = {}
        """Message of each Fail, by task id."""
        self.in_flight = self.in_flight_peak = 0
        self._now = now
        self._created_at = now() if behaviour.task_deadline_seconds else 0.0
        self._tasks = {self.sample_data.task_id(number): _Task(number) for number in range(tasks)}
        self._claimed: dict[str, None] = {}  # ids, oldest claim first
        self._tokens: dict[str, float] = {}
        self._specs_repaired = False
        self._damaged = 0  # number of specifications so far

    # -- tokens

    def issue_token(self, client_id: str, client_secret: str) -> str | None:
        """Return a new token, or None if the credentials are wrong."""
        if (client_id, client_secret) != (self.client_id, self.client_secret):
            return None
        self.counts["token"] += 1
        token = hashlib.sha256(f"{self.counts['token']}".encode()).hexdigest()
        self._tokens[token] = self._now() + self.behaviour.token_seconds
        return token

    def accepts(self, token: str) -> bool:
        """Return whether a token is valid now."""
        return self._now() < self._tokens.get(token, 0)

    def revoke_tokens(self) -> None:
        """Invalidate all tokens."""
        self._tokens.clear()

    # -- requests in flight

    def request_started(self) -> bool:
        """Count a request as in flight. Return False if there are more than ``max_at_once``."""
        self.in_flight += 1
        self.in_flight_peak = max(self.in_flight_peak, self.in_flight)
        return not self.behaviour.max_at_once or self.in_flight <= self.behaviour.max_at_once

    def request_finished(self) -> None:
        """Count a request as finished."""
        self.in_flight -= 1

    # -- requests

    def list_in_state(self, state: str) -> Iterator[bytes]:
        """Yield the rows (JSON) of the tasks in a state, oldest first."""
        if state == TaskState.PENDING:
            yield from self.list_pending()
        else:
            yield from (self._row(task_id, self._tasks[task_id], state) for task_id in self.ids(state))

    def list_pending(self) -> Iterator[bytes]:
        """Yield the rows (JSON) of the pending tasks, oldest first."""
        self.counts["list"] += 1
        self._requeue()
        remaining = self.behaviour.max_listed or len(self._tasks) + 1
        stale_after = self._now() - self.behaviour.list_stale_seconds
        for task_id, task in self._tasks.items():
            if task.state == TaskState.PENDING or (self.behaviour.list_stale_seconds and task.changed_at > stale_after):
                if task.number in self.behaviour.contradictory_tasks:
                    yield self._row(task_id, task, TaskState.PENDING, project=task.number + 1)
                yield self._row(task_id, task, TaskState.PENDING)
                remaining -= 1
                if not remaining:
                    return
        if self.behaviour.malformed_row:
            yield b'{"id":["not","an","id"],"created_at":"2024-03-25T16:38:66Z"}'

    def start(self, task_id: str) -> bytes:
        """Claim a task; return its Export Specification (JSON)."""
        if self._task(task_id).state != TaskState.PENDING:
            self.counts["refused"] += 1
        task = self._in_state(task_id, TaskState.PENDING)
        self._set(task_id, task, TaskState.CLAIMED)
        self._claimed[task_id] = None
        self.counts["start"] += 1
        return self.specification(task_id)

    def complete(self, task_id: str) -> None:
        """Complete a task."""
        if self.behaviour.repeated_complete_accepted and self._task(task_id).state == "completed":
            return
        self._settle(task_id, "completed", "complete")

    def cancel(self, task_id: str) -> None:
        """Cancel a claim, which releases the task."""
        self._settle(task_id, TaskState.PENDING, "cancel")

    def fail(self, task_id: str, message: str) -> None:
        """Fail a task."""
        self._settle(task_id, "failed", "fail")
        self.messages[task_id] = message

    def get(self, task_id: str) -> bytes:
        """Return a task (JSON)."""
        self._requeue()
        task = self._task(task_id)
        return self._row(task_id, task, task.state)

    def file(self, collection: str, name: str) -> bytes:
        """Return the content of a file. Raises ``NotFound`` once its task is completed, failed or timed out."""
        self._time_out_if_overdue()
        task = self._task(collection)
        if task.state not in (TaskState.PENDING, TaskState.CLAIMED):
            raise NotFound
        for file in self._files(task):
            if file.text is None and _file_id(file) == name:
                self.counts["file"] += 1
                return self.sample_data.pdf(file)
        raise NotFound

    # -- inspection

    def repair_specs(self) -> None:
        """Correct the specifications that cannot be exported as they are."""
        self._specs_repaired = True

    def time_out(self) -> None:
        """Delete all tasks that are not settled, as Aluma deletes those that are overdue in their project."""
        for task_id, task in self._tasks.items():
            if task.state in (TaskState.PENDING, TaskState.CLAIMED):
                self._set(task_id, task, "timed-out")
        self._claimed.clear()

    def quirk(self, task_id: str) -> SpecQuirk | None:
        """Return the peculiarity that the specification of a task has now."""
        quirk = self.behaviour.quirks.get(self._task(task_id).number)
        return None if self._specs_repaired and quirk not in _HARMLESS_QUIRKS else quirk

    def specification(self, task_id: str) -> bytes:
        """Return the Export Specification (JSON) of a task."""
        quirk = self.quirk(task_id)
        if quirk is SpecQuirk.NO_DOCUMENTS:
            return b'{"documents":[]}'
        collection = f"{self._root_of_urls(quirk)}file_collections/{task_id}/files"
        documents = [
            {
                "files": [
                    {
                        "folder": file.folder,
                        "filename": file.filename,
                        "source": "url" if file.text is None else "content",
                        "content": file.text,
                        "url": f"{collection}/{_file_id(file)}" if file.text is None else None,
                    }
                    for file in document
                ]
            }
            for document in self.sample_data.documents(self._task(task_id).number)
        ]
        if quirk is SpecQuirk.UNKNOWN_SOURCE:
            documents[-1]["files"][-1]["source"] = "archive"
        body = msgspec.json.encode({"documents": documents})
        if self._task(task_id).number in self.behaviour.impossible_tasks:
            return _with_invalid_text(body, 1)
        return body

    def changed(self, specification: bytes, fault: AnyFault | None) -> bytes:
        """Return an Export Specification as a response with a fault contains it."""
        match fault:
            case WrongReply.CUT_SPECIFICATION:
                return specification[: len(specification) // 2]
            case WrongReply.PARTIAL_SPECIFICATION:
                return _first_page(specification)
            case WrongReply.DAMAGED_TEXT if not specification.endswith(b"[]}"):
                self._damaged += 1
                return _with_invalid_text(specification, self._damaged)
        return specification

    def _root_of_urls(self, quirk: SpecQuirk | None) -> str:
        match quirk:
            case SpecQuirk.ABSOLUTE_URL:
                return f"{self.behaviour.base_url}/"
            case SpecQuirk.RELATIVE_URL:
                return ""
            case SpecQuirk.FOREIGN_URL:
                return "https://files.example.com/"
        return "/"

    def expected(self, task_id: str) -> list[tuple[str, str, bytes]]:
        """Return folder, filename and content of all files of a task in any state."""
        return [(f.folder, f.filename, self.sample_data.content(f)) for f in self._files(self._task(task_id))]

    def ids(self, state: str | None = None) -> list[str]:
        """Return the ids of all tasks, or of those in a state."""
        self._requeue()
        return [task_id for task_id, task in self._tasks.items() if state in (None, task.state)]

    def count_by_state(self) -> dict[str, int]:
        """Return the number of tasks in each state."""
        self._requeue()
        return dict(Counter(task.state for task in self._tasks.values()))

    def _files(self, task: _Task) -> list[SampleFile]:
        return [file for document in self.sample_data.documents(task.number) for file in document]

    def _row(self, task_id: str, task: _Task, state: str, project: int = -1) -> bytes:
        project_id, project_name = self.sample_data.project(task.number if project < 0 else project)
        created = datetime.fromtimestamp(1_711_385_828 + task.number, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return msgspec.json.encode(
            {
                "id": task_id,
                "name": self.sample_data.name(task.number),
                "file_collection_id": task_id,
                "project_id": project_id,
                "project_name": project_name,
                "created_at": created,
                "documents_count": 1,
                "state": state,
                "client_action": "export",
            }
        )

    def _task(self, task_id: str) -> _Task:
        if task_id not in self._tasks:
            raise NotFound
        return self._tasks[task_id]

    def _in_state(self, task_id: str, state: str) -> _Task:
        self._requeue()
        task = self._task(task_id)
        if task.state != state:
            raise StateConflict(task.state)
        return task

    def _settle(self, task_id: str, state: str, verb: str) -> None:
        task = self._in_state(task_id, TaskState.CLAIMED)
        del self._claimed[task_id]
        self._set(task_id, task, state)
        self.counts[verb] += 1

    def _set(self, task_id: str, task: _Task, state: str) -> None:
        del task_id
        task.state = state
        task.changed_at = self._now()

    def _time_out_if_overdue(self) -> None:
        deadline = self.behaviour.task_deadline_seconds
        if deadline and self._now() >= self._created_at + deadline:
            self.time_out()

    def _requeue(self) -> None:
        """Release the claims whose lease has expired."""
        self._time_out_if_overdue()
        expired_before = self._now() - self.behaviour.claim_timeout_seconds
        for task_id in list(self._claimed):
            task = self._tasks[task_id]
            if task.changed_at > expired_before:
                break
            del self._claimed[task_id]
            task.state = TaskState.PENDING
            self.counts["requeued"] += 1


def _with_invalid_text(specification: bytes, number: int) -> bytes:
    return specification.removesuffix(b"]}") + b',{"files":[' + _INVALID_TEXT % number + b"]}]}"


def _first_page(specification: bytes) -> bytes:
    """Return a specification without its last file, and if that is its document's only one, without the document."""
    documents = json.loads(specification)["documents"]
    if documents and len(documents[-1]["files"]) > 1:
        documents[-1]["files"].pop()
    elif len(documents) > 1:
        documents.pop()
    return json.dumps({"documents": documents, "next_page": "/pages/2"}).encode()


def _file_id(file: SampleFile) -> str:
    return hashlib.sha256(f"{file.seed}/{file.size}/{file.folder}/{file.filename}".encode()).hexdigest()[:22]
