"""The content of a manifest."""

import json

from aluma_async.destinations.common.manifest import StoredFile, render_manifest
from tests.support.tasks import make_claim

EXPORTED_AT = 1_800_000_000.25


def test_manifest_contains_task_time_and_files():
    claim = make_claim("t1", ("a/b", "c.pdf"))
    text = render_manifest(claim, [StoredFile(claim.spec.files[0], "a/b/c~2.pdf", 3, "ab")], EXPORTED_AT)
    assert json.loads(text) == {
        "version": 1,
        "task": {"id": "t1", "name": "a name", "project_id": "p1", "project_name": "Invoices"},
        "exported_at": "2027-01-15T08:00:00.250+00:00",
        "files": [
            {"path": "a/b/c~2.pdf", "size": 3, "sha256": "ab", "document": 0, "folder": "a/b", "filename": "c.pdf"}
        ],
    }


def test_manifest_replaces_characters_that_utf8_cannot_encode():
    claim = make_claim("t1", ("\ud800", "x\udfff.pdf"))
    text = render_manifest(claim, [StoredFile(claim.spec.files[0], "x", 0, "")], EXPORTED_AT)
    assert json.loads(text)["files"][0]["folder"] == "?"
