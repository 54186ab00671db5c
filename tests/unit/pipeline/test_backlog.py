"""``Backlog``: tasks come out as they were put in, and take little memory until then."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from aluma_async.backlog import Backlog
from aluma_async.models import ExportTask

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
tasks = st.builds(
    ExportTask,
    id=texts,
    name=texts,
    project_id=texts,
    project_name=texts,
    created_at=st.none() | st.floats(0, 2e9),
    collection_id=texts,
)


@given(st.lists(st.lists(tasks)))
def test_backlog_returns_tasks_once_and_in_order(pages):
    backlog = Backlog()
    for page in pages:
        backlog.add(page)
    assert list(backlog.drain()) == [task for page in pages for task in page]
    assert not list(backlog.drain())


def test_backlog_takes_little_more_memory_than_ids_and_names():
    backlog, count = Backlog(), 10_000
    for begin in range(0, count, 500):
        backlog.add(
            [
                ExportTask(f"{n:022}", f"{n:022}.pdf", f"{n % 3:022}", f"Project {n % 3:014}", 1.7e9 + n, f"{n:022}")
                for n in range(begin, begin + 500)
            ]
        )
    assert sum(map(sys.getsizeof, backlog._blocks)) < count * (22 + 26 + 22 + 18)
