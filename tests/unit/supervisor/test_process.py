"""The output and the command line of the processes."""

import asyncio
import json
import os
import socket
import sys
import threading

import pytest

from aluma_async.models import Summary
from aluma_async.policy.partition import Partition
from aluma_async.supervisor.link import ParentLink
from aluma_async.supervisor.messages import VARIABLE, End, decode, encode
from aluma_async.supervisor.process import command_line, decorate


@pytest.mark.parametrize(
    ("line", "expected"),
    [("2026 info text", "[3] 2026 info text"), ("<4>text", "<4>[3] text"), ("", "[3] "), ("<4", "[3] <4")],
)
def test_text_lines_have_the_number_of_their_process(line, expected):
    """The priority for the systemd journal stays at the beginning."""
    assert decorate(line, 3, as_json=False, now=str) == expected


def test_json_lines_have_a_field_with_the_number_of_their_process():
    line = decorate('<6>{"time":"t","message":"m"}', 2, as_json=True, now=str)
    assert (line[:3], json.loads(line[3:])) == ("<6>", {"time": "t", "message": "m", "process": 2})


def test_other_lines_among_json_become_json():
    """Such as those of a traceback, which no log reader could parse."""
    shown = json.loads(decorate('File "a.py", line 1', 2, as_json=True, now=lambda: "now"))
    assert shown["message"] == 'File "a.py", line 1'
    assert (shown["event"], shown["process"], shown["time"]) == ("ProcessOutput", 2, "now")


def test_command_line_imports_nothing_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_line(["--once"], ["/usr/bin"]) == [sys.executable, "-P", "-m", "aluma_async", "--once"]
    assert "-P" not in command_line([], [str(tmp_path)]), "unless the program was started from there"


def test_link_is_taken_from_the_environment_once():
    first, second = os.pipe()
    environ = {VARIABLE: f"2/4 {first} {second}"}
    assert ParentLink.take(environ) is None, "the descriptors are no socket"
    assert environ == {}, "a program that the process starts does not take itself for one of several"
    os.close(second)


@pytest.mark.parametrize("value", ["", "2/4", "2/4 x y", "a/4 5 6", "2/4 5 6 7"])
def test_link_with_a_wrong_description_is_refused(value):
    assert ParentLink.take({VARIABLE: value}) is None


def test_link_begins_on_command_sends_its_result_and_ends_with_its_parent():
    """The thread that waits for the parent's end works also while the event loop is blocked."""
    ours, theirs = socket.socketpair()
    lifeline, parent_end = os.pipe()
    link = ParentLink.take({VARIABLE: f"2/4 {theirs.detach()} {lifeline}"})
    assert link.partition == Partition(2, 4)
    ended = threading.Event()

    async def run():
        ours.sendall(encode("reload") + encode("begin"))
        assert await link.connect(ended.set)
        await link.finish(End(Summary(exported=3), {}, 0))

    asyncio.run(run())
    with ours, ours.makefile("rb") as messages:
        assert decode(messages.read()) == End(Summary(exported=3), {}, 0)
    assert not ended.is_set()
    os.close(parent_end)
    assert ended.wait(5)
    os.close(lifeline)


def test_link_does_not_begin_when_it_is_told_to_drain_first():
    ours, theirs = socket.socketpair()
    lifeline, parent_end = os.pipe()
    link = ParentLink.take({VARIABLE: f"2/4 {theirs.detach()} {lifeline}"})
    ended = threading.Event()

    async def run():
        ours.sendall(encode("drain"))
        begins = await link.connect(ended.set)
        await link.finish(End(Summary(), {}, 0))
        return begins

    assert asyncio.run(run()) is False
    ours.close()
    os.close(parent_end)
    assert ended.wait(5)
    os.close(lifeline)
