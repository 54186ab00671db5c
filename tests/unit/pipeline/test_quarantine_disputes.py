"""``Quarantine``: two versions of a file of a parked or exported task, of which one may be the answer of a proxy."""

import json

import pytest

from aluma_async.events import CopyFailed
from aluma_async.pipeline.copying import CopiesDiffer
from tests.support.clock import virtual_time
from tests.support.quarantine import CONTENT, ERROR, PARKED, SPEC, claim_for


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "incomplete"])
@virtual_time
async def test_parked_task_keeps_both_versions_of_a_file(missing, store):
    """The first file may be the answer of a proxy. It is reported, once for each version, and nothing is removed."""
    store.files.content = {"/files/1": b"%PDF wrong", "/files/2": CONTENT["/files/2"]}
    if missing:
        del store.files.content["/files/2"]
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    (first,) = store.copies
    store.files.content = CONTENT
    with pytest.raises(CopiesDiffer, match="file 1 was fetched twice"):
        await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    for _ in range(2):
        assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
    (second,) = (copy for copy in store.copies if copy != first)
    assert second.is_complete
    assert (second.folder / "files/in/a.pdf").read_bytes() == CONTENT["/files/1"]
    assert first in store.copies
    await store.export(claim_for(SPEC))
    assert len(store.copies) == 2


@virtual_time
async def test_parked_task_keeps_at_most_four_versions(store):
    """A server may answer with another page each time."""
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    for number in range(8):
        store.files.content = {**CONTENT, "/files/1": b"%%PDF %d" % number}
        with pytest.raises(CopiesDiffer):
            await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    assert len(store.copies) == 4


@virtual_time
async def test_copy_stays_if_another_version_of_a_file_was_exported(store):
    """It may be the only right one, and Aluma has deleted the task."""
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    before = store.copies
    store.files.content = {**CONTENT, "/files/2": b"%PDF wrong"}
    await store.export(claim_for(SPEC))
    assert store.copies == before
    (failed,) = [event for event in store.events if isinstance(event, CopyFailed)]
    assert "file 2 was exported with other content than its safety copy has" in str(failed.error)


@virtual_time
async def test_copy_without_hashes_stays_after_an_export(store):
    """That of an earlier version cannot be compared."""
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    (copy,) = store.copies
    record = json.loads((copy.folder / "quarantine.json").read_bytes())
    for file in record["files"]:
        file.update(sha256="")
    (copy.folder / "quarantine.json").write_text(json.dumps(record))
    await store.export(claim_for(SPEC))
    assert len(store.copies) == 1
