"""``Log``: lines of text or JSON, without content, and without names above level debug."""

import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from aluma_async import events
from aluma_async.exceptions import Unavailable
from aluma_async.pipeline.defect import unexpected
from aluma_async.service import journald
from aluma_async.service.logs import LEVELS, MESSAGES, Log
from tests.support.events import CONTENT, NAME, TASK, event_types, sample_event


def log_text(*happened, log_format="text", level="info", **options):
    """Return what a log writes for these events."""
    out = io.StringIO()
    log = Log(out.write, format=log_format, level=level, now=lambda: 0.0, **options)
    for event in happened:
        log(event)
    return out.getvalue()


def all_events():
    return [sample_event(kind) for kind in event_types()]


@pytest.mark.parametrize("kind", event_types())
def test_log_writes_one_line_for_every_event_but_received_bytes(kind):
    text = log_text(sample_event(kind), level="debug")
    assert text.count("\n") == (kind is not events.BytesReceived)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_contains_no_content_and_names_only_at_level_debug(log_format):
    for level in LEVELS:
        text = log_text(*all_events(), log_format=log_format, level=level)
        assert CONTENT not in text
        assert (NAME in text) == (level == "debug")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_shows_the_cause_of_an_unexpected_error_at_level_debug(log_format):
    """Message, cause and stack of a defect of a plug-in, without the values of variables."""
    try:
        try:
            {}["a key"]
        except KeyError as cause:
            raise TypeError("no text") from cause
    except TypeError as error:
        defect = unexpected(error)
    event = sample_event(events.TaskCancelled, error=defect)
    text = log_text(event, log_format=log_format, level="debug")
    for part in (
        "unexpected TypeError",
        "TypeError: no text in test_log_shows_",
        "caused by KeyError: ",
        "test_logs.py",
    ):
        assert part in text
    assert len(log_text(event, log_format=log_format).splitlines()) == 1
    assert "no text" not in log_text(event, log_format=log_format)


def test_log_omits_lower_levels():
    for level in LEVELS:
        lines = log_text(*all_events(), log_format="json", level=level).splitlines()
        assert {json.loads(line)["level"] for line in lines} == set(LEVELS[LEVELS.index(level) :])


def test_log_shows_a_considerable_change_of_the_limit_at_level_info():
    text = log_text(events.ConcurrencyLimitChanged(9), events.ConcurrencyLimitAdapted(32, 8))
    assert text.endswith(" info    adapting to Aluma: at most 8 requests at once, 32 before\n")
    assert len(text.splitlines()) == 1


def test_log_line_in_json_has_the_fields_of_its_event():
    line = json.loads(log_text(sample_event(events.TaskCancelled, retry_in=2.5), log_format="json"))
    assert line == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "warning",
        "event": "TaskCancelled",
        "message": "task task-1 released, next attempt in 2.5 s: it is away",
        "task": "task-1",
        "error": "it is away",
        "error_type": "Unavailable",
        "failures": 1,
        "retry_in_seconds": 2.5,
    }


def test_log_error_type_is_always_a_class_of_the_package():
    """Dashboards count by it, and plug-ins may raise subclasses."""

    class PluginError(Unavailable):
        pass

    line = json.loads(log_text(sample_event(events.ListingFailed, error=PluginError("away")), log_format="json"))
    assert line["error_type"] == "Unavailable"
    hold = structs.replace(sample_event(events.TaskParked).hold, error="PluginError")
    assert json.loads(log_text(events.TaskParked(TASK, hold), log_format="json"))["error_type"] == "AlumaAsyncError"


def test_log_lines_for_the_journal_have_a_priority_and_no_time():
    text = "".join(
        log_text(
            *map(sample_event, (events.TaskStarted, events.ClaimingResumed, events.TaskParked)),
            log_format=log_format,
            level="debug",
            journald=True,
        )
        for log_format in ("text", "json")
    )
    assert [line[:3] for line in text.splitlines()] == ["<7>", "<4>", "<3>"] * 2
    assert text.startswith("<7>task task-1 claimed")


def test_journal_is_recognized_by_device_and_inode(tmp_path):
    """The variable alone proves nothing, because child processes inherit it."""
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        assert journald.is_journal(stream.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not journald.is_journal(stream.fileno(), {})
        assert not journald.is_journal(stream.fileno(), {"JOURNAL_STREAM": "1:1"})


@given(st.text())
def test_log_text_cannot_forge_a_line_or_control_the_terminal(text):
    line = log_text(sample_event(events.ListingFailed, error=Unavailable(text)))
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_log_messages_use_every_level():
    assert {level for level, _ in MESSAGES.values()} == set(LEVELS)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_message_contains_the_id_of_a_task_once(log_format):
    error = Unavailable(f"task {TASK.id}, file 0: no connection")
    line = log_text(events.TaskCancelled(TASK, error=error, failures=1, retry_in=60), log_format=log_format)
    message = json.loads(line)["message"] if log_format == "json" else line
    assert message.count(TASK.id) == 1
    assert "file 0: no connection" in message


def test_log_message_of_a_retried_request_names_the_request_once():
    error = Unavailable("list tasks: Aluma answered 503")
    line = log_text(events.RequestRetried("list tasks", error, 0.5), level="debug")
    assert "list tasks: retry in 0.5 s: Aluma answered 503" in line


def test_json_log_contains_no_control_or_bidirectional_characters():
    lines = []
    Log(lines.append, format="json", level="debug").write("info", "x", "a\u202eb\x9b", name="\u2066.pdf")
    (line,) = lines
    assert line.rstrip("\n").isprintable()
    assert json.loads(line)["name"] == "\u2066.pdf"
