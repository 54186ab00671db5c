"""The journal's records: what is on disk stays readable when names in the code change."""

import msgspec
import pytest

from aluma_async.models import ClaimRecord, ClaimState, ExportFile, ExportRecord, ExportSpec, HoldRecord, Timestamp

AT = Timestamp("boot", 1.5, 2.5)
STORED_AT = '{"boot":"boot","boottime":1.5,"wall":2.5}'


@pytest.mark.parametrize(
    ("record", "stored"),
    [
        (
            ClaimRecord("t", ClaimState.ORPHANED, AT, True, AT, files=2, bytes=3, message="m", receipt="r"),
            f'{{"task_id":"t","step":"loose","sent":{STORED_AT},"unheard":true,"doubted":{STORED_AT},'
            '"files":2,"bytes":3,"message":"m","receipt":"r","source":""}',
        ),
        (
            HoldRecord("t", AT, 60.0, failures=1, crashes=2, parked=True, error="E", message="m", created_at=5.0),
            f'{{"task_id":"t","since":{STORED_AT},"seconds":60.0,"failures":1,"crashes":2,"parked":true,'
            '"error":"E","message":"m","created_at":5.0,"same_failures":0,"copy_tried":false,"unexportable":"","source":""}',
        ),
        (ExportRecord("t", 1.0, 2, 3, 4.0, ("a", "b"), "n", "p"), '["t",1.0,2,3,4.0,["a","b"],"n","p"]'),
    ],
)
def test_journal_record_keeps_its_stored_form(record, stored):
    assert msgspec.json.encode(record).decode() == stored
    assert msgspec.json.decode(stored, type=type(record)) == record


def test_record_of_an_earlier_version_has_no_names():
    """And an earlier version ignores the names of a record of this one."""
    earlier = ExportRecord("t", 1.0, 2, 3, 4.0, ("a",))
    assert msgspec.json.decode('["t",1.0,2,3,4.0,["a"]]', type=ExportRecord) == earlier
    assert msgspec.json.decode('["t",1.0,2,3,4.0,["a"],"","","more"]', type=ExportRecord) == earlier


def test_claim_states_keep_their_stored_values():
    assert [state.value for state in ClaimState] == ["started", "claimed", "committed", "failing", "loose"]


def test_content_is_not_in_the_repr():
    file = ExportFile(0, 0, "canary", "canary", "content", content="canary")
    assert "canary" not in repr(ExportSpec((file,), b"canary")) + repr(file)
