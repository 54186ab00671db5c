"""Decoding of a listing while it arrives."""

import json
import random
import time
from contextlib import suppress

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from aluma_async import AlumaClient, Credentials
from aluma_async.aluma.listing import ListingDecoder, timestamp
from aluma_async.exceptions import InvalidResponse
from aluma_async.models import TaskState
from tests.support.clock import virtual_time
from tests.support.stack import BASE_URL, app_session, list_tasks


class SmallWindows(ListingDecoder):
    WINDOW = 40


def decode_listing(document: bytes, sizes: list[int]) -> tuple[list[str], list[str]]:
    skipped: list[str] = []
    decoder = SmallWindows(skipped.append)
    ids, position, turn = [], 0, 0
    while position < len(document):
        size = sizes[turn % len(sizes)]
        ids += [task.id for task in decoder.feed(document[position : position + size])]
        position, turn = position + size, turn + 1
    ids += [task.id for task in decoder.close()]
    return ids, skipped


names = st.text(alphabet=st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['}],"tasks":[{', '"', "\\", "}{]["]
)
rows = st.lists(st.tuples(st.text("abcXYZ019-_", min_size=1, max_size=22), names), max_size=20)


@given(rows, names, st.lists(st.integers(1, 60), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_listing_is_decoded_completely_for_any_chunk_sizes(rows, odd, sizes, before, pretty):
    """Names may contain braces, rows may contain nested objects, and other keys may surround ``tasks``."""
    listing: dict[str, object] = {"note": {"tasks": [odd]}} if before else {}
    listing["tasks"] = [{"id": i, "name": name, "extra": {"deep": [{"er": odd}]}} for i, name in rows]
    listing["next"] = {"cursor": odd}
    document = json.dumps(listing, indent=1 if pretty else None).encode()
    assert decode_listing(document, sizes)[0] == [i for i, _ in rows]


@given(st.integers(1, 1000), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_listing_raises_when_it_is_incomplete(cut, sizes):
    document = json.dumps({"tasks": [{"id": f"task{n}", "name": "}"} for n in range(20)]}).encode()
    with pytest.raises(InvalidResponse):
        decode_listing(document[: min(cut, len(document) - 1)], sizes)


def test_listing_skips_and_reports_only_unreadable_rows():
    rows = [{"id": "good1"}, {"id": ["no", "id"]}, {"name": "none"}, {"id": "../x"}, {"id": ".."}, {"id": "good2"}]
    for sizes in ([7], [10_000]):
        ids, skipped = decode_listing(json.dumps({"tasks": rows}).encode(), sizes)
        assert ids == ["good1", "good2"]
        assert len(skipped) == 4


@pytest.mark.parametrize(
    "value",
    [
        rb'"scan \ud83d.pdf"',
        rb'"\\ud83d \udc00\ud83d"',
        b'"M\xfcller"',
        b"9" * 5000,
        b"7",
        b"true",
        b'["x"]',
        b'{"a": [{}]}',
        b'"a\nb"',
    ],
)
@pytest.mark.parametrize("field", [b"name", b"project_id", b"project_name", b"created_at", b"extra"])
def test_listing_reads_a_row_whatever_its_fields_contain(field, value):
    """Only the id is needed. One odd value must not hide its task, nor the tasks of other rows."""
    bad = b'{"id": "bad", "%b": %b}' % (field, value)
    rows = [b'{"id": "a", "name": "\\ud83d\\ude00"}', bad, b'{"id": "b"}'] * 3
    document = b'{"%b": %b, "tasks": [%b], "next": null}' % (field, value, b" , ".join(rows))
    for sizes in ([1 if len(value) < 100 else 61], [7, 50], [100_000]):
        assert decode_listing(document, sizes) == (["a", "bad", "b"] * 3, [])


def test_listing_shows_the_readable_part_of_an_odd_name():
    decoder = ListingDecoder(lambda _: None)
    decoder.feed(rb'{"tasks": [{"id": "a", "name": "scan \ud83d.pdf", "project_name": "M' + b'\xfc"}]}')
    (task,) = decoder.close()
    assert (task.name, task.project_name) == ("scan \ufffd.pdf", "M\ufffd")
    task.name.encode()


def test_listing_reads_a_numeric_id():
    assert decode_listing(b'{"tasks": [{"id": 123, "project_id": 7}, {"id": "b"}]}', [100]) == (["123", "b"], [])


def test_listing_omits_tasks_in_other_states():
    """A server may ignore the filter of the request."""
    rows = [
        {"id": "a", "state": "completed"},
        {"id": "b", "client_action": "validation"},
        {"id": "c", "state": TaskState.PENDING},
    ]
    assert decode_listing(json.dumps({"tasks": rows}).encode(), [1000])[0] == ["c"]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"tasks": [{"id": "a/b"}, {"name": "x"}, {"id": ""}]}, "none of its 3 rows"),
        ({"tasks": [{"id": "a", "state": "pending"}]}, "none of its 1 rows"),
        ({"tasks": [{"id": "a", "state": TaskState.PENDING.upper()}]}, "none of its 1 rows"),
        ({"tasks": [{"id": "a"}], "next": "/tasks?page=2"}, "'next' names a next page"),
        ({"has_more": True, "tasks": []}, "'has_more' names a next page"),
        ({"tasks": [], "_links": {"next": "/x"}}, "'next' names a next page"),
        ({"tasks": [], "@odata.nextLink": "/x"}, "'@odata.nextLink' names a next page"),
        ({"tasks": [{"id": "a", "name": "\ud83d"}], "nextPageToken": "x"}, "'nextPageToken' names a next page"),
        ({"tasks": [{"id": "a/b"}, {"id": "good"}], "next": None, "has_more": False, "note": "next"}, ""),
        ({"tasks": [{"id": "a", "state": TaskState.CLAIMED}, {"id": "b", "state": "completed"}]}, ""),
        ({"tasks": [{"id": "a", "state": "pending"}, {"id": "b"}], "links": {"next": ""}, "total": 9}, ""),
        ({"tasks": []}, ""),
        ({"tasks": [{"id": "a", "client_action": "EXPORT"}]}, "none of its 1 rows"),
        ({"tasks": [{"id": "a", "client_action": "validation"}]}, ""),
        ({"tasks": [], "total": 512}, "'total' announces 512 tasks"),
        ({"tasks": [], "meta": {"totalCount": 1}}, "'totalCount' announces 1 tasks"),
        ({"tasks": [], "total": 0, "count": True}, ""),
        ({"tasks": [], "errors": [{"message": "time-out"}]}, "'errors' reports an error"),
        ({"tasks": [], "error": "", "exception": None}, ""),
        ({"success": False, "tasks": []}, "'success' reports an error"),
        ({"success": True, "tasks": []}, ""),
    ],
)
def test_listing_has_a_problem_when_tasks_may_be_missing(document, problem):
    """A run must not report that everything is exported because it could not read any row, or only a first page."""
    decoder = ListingDecoder(lambda _: None)
    decoder.feed(json.dumps(document).encode())
    decoder.close()
    assert problem in decoder.problem
    assert bool(decoder.problem) == bool(problem)


def test_timestamp_is_none_for_an_invalid_date():
    """The first date is an example of Aluma's guide."""
    assert timestamp("2024-03-25T16:38:66Z") is None
    assert timestamp("2024-03-25T16:37:08Z") == 1711384628
    assert timestamp("2024-03-25T18:37:08+02:00") == timestamp("2024-03-25T16:37:08") == 1711384628
    assert timestamp(["x"]) is None


def test_listing_returns_tasks_before_it_is_complete():
    """The decoder works in windows, so it does not buffer a long listing."""
    chance = random.Random(1)
    rows = [{"id": f"{chance.getrandbits(128):032x}", "name": "n" * 300} for _ in range(5000)]
    document = json.dumps({"tasks": rows}).encode()
    decoder = ListingDecoder(lambda _: None)
    early = decoder.feed(document[: len(document) // 2])
    assert 2000 < len(early) < 2600
    late = decoder.feed(document[len(document) // 2 :])
    assert [t.id for t in (*early, *late, *decoder.close())] == [row["id"] for row in rows]


class SmallRows(SmallWindows):
    MAX_ROW_BYTES = 100


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b'{"tasks":[{"id":"a","name":"' + b"n" * 100, "a row is longer"),
        (b'{"tasks":[{"id":"a"},{"id":"b","name":"' + b"}" * 101, "a row is longer"),
        (b'{"other":"' + b"n" * 100, "no 'tasks' field"),
        (b"<html>" * 20, "no 'tasks' field"),
    ],
)
def test_listing_raises_before_its_end_when_memory_would_grow(document, reason):
    """Otherwise a server that never ends a row would exhaust the memory."""
    with pytest.raises(InvalidResponse, match=reason):
        SmallRows(lambda _: None).feed(document)


@pytest.mark.parametrize("head", [b'{"other":"', b'{"tasks":['])
def test_listing_waits_for_a_row_of_the_maximum_size(head):
    decoder = SmallRows(lambda _: None)
    start = b"" if b"tasks" in head else head
    assert decoder.feed(head) == []
    assert decoder.feed(b"x" * (SmallRows.MAX_ROW_BYTES - len(start))) == []
    with pytest.raises(InvalidResponse):
        decoder.feed(b"x")


def test_listing_keeps_the_bytes_after_the_last_complete_row():
    decoder = SmallWindows(lambda _: None)
    first = b'{"tasks":[{"id":"a","name":"' + b"n" * 40 + b'"} , {"id":"b","na'
    assert [task.id for task in decoder.feed(first)] == ["a"]
    assert [task.id for task in decoder.feed(b'me":"' + b"m" * 40 + b'"}')] == ["b"]
    with pytest.raises(InvalidResponse, match="incomplete"):
        decoder.close()


def test_limit_of_a_row_is_for_one_row():
    """Rows that only the tolerant decoder can read do not count together."""
    decoder = SmallRows(lambda _: None)
    rows = b",".join(b'{"id":"%b","x":NaN,"name":"%b"}' % (name, b"n" * 50) for name in (b"a", b"b"))
    assert [task.id for task in decoder.feed(b'{"tasks":[' + rows + b',{"id":"c')] == ["a", "b"]
    assert [task.id for task in decoder.feed(b'","x":NaN}]}') + decoder.close()] == ["c"]


def test_listing_has_a_problem_when_its_rows_come_twice():
    """A decoder takes the last field of a name, and would not see the tasks of the first one."""
    decoder = ListingDecoder(lambda _: None)
    decoder.feed(b'{"tasks":[{"id":"a"}],"tasks":[]}')
    assert decoder.close() == []
    assert "'tasks' is repeated" in decoder.problem


@pytest.mark.parametrize(
    "make_body",
    [
        lambda: b'{"old":{%s},"tasks":[]}' % b",".join(b'"%d":{"tasks":[]}' % n for n in range(400_000)),
        lambda: b'{"tasks":[{"id":"a","name":"%s"}]}' % (b"}" * 8_000_000),
        lambda: b'{"tasks":[{"id":"a","name":%s1%s}]}' % (b"[" * 1_000_000, b"]" * 1_000_000),
    ],
    ids=["many fields of that name", "braces in a name", "deep"],
)
def test_listing_is_decoded_in_time_when_it_is_made_to_be_slow(make_body):
    """No part is read again and again, because that would block the event loop. Half a second each, by far."""
    decoder, body = ListingDecoder(lambda _: None), make_body()
    started_at = time.process_time()
    with suppress(InvalidResponse):
        for start in range(0, len(body), 65536):
            decoder.feed(body[start : start + 65536])
        decoder.close()
    assert time.process_time() - started_at < 5


@pytest.mark.parametrize(
    ("link", "is_incomplete"), [('</tasks?page=2>; rel="next"', True), ('</tasks>; rel="self"', False), ("", False)]
)
@virtual_time
async def test_listing_with_a_link_to_a_next_page_is_reported(link, is_incomplete):
    """Pages are not followed, so that the tasks on the next one would be overlooked."""
    emitted = []

    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 60})

    async def tasks(_):
        return web.json_response({"tasks": []}, headers={"Link": link} if link else {})

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.get("/v1/tasks", tasks)])
    async with app_session(app) as session:
        assert await list_tasks(AlumaClient(session, BASE_URL, Credentials("i", "s"), on_event=emitted.append)) == []
    assert [event.reason for event in emitted] == ["it has a link to a next page"] * is_incomplete
