"""A server that regards different names as one loses no file: not of the same task, and not of another one."""

import anyio
import msgspec
import pytest
from aiohttp import web

from aluma_async.exceptions import AlreadyExported, DestinationError
from tests.support.clock import real_time
from tests.support.equal_names import EqualNames, without_accents, without_emoji, without_trailing_dots
from tests.support.servers import open_server
from tests.support.tasks import deliver, make_claim

PAIRS = {
    "accent": (without_accents, "café.txt", "cafe.txt"),
    "case": (str.casefold, "A.txt", "a.txt"),
    "letter of another width": (without_trailing_dots, "a.txt", "\N{FULLWIDTH LATIN SMALL LETTER A}.txt"),
    "trailing dot": (without_trailing_dots, "a", "a\N{FULLWIDTH FULL STOP}"),
    "emoji": (without_emoji, "🎉.txt", "🎂.txt"),
    "plus": (lambda name: name.replace("+", " "), "a+b.txt", "a b.txt"),
}
pairs = pytest.mark.parametrize(("key", "first", "second"), PAIRS.values(), ids=PAIRS)
kinds = pytest.mark.parametrize("kind", ["webdav", "object store"])
conflicts = pytest.mark.parametrize("on_conflict", ["keep-both", "overwrite"])


def equal_names(kind, server, key):
    """Change what a server regards as equal."""
    files = EqualNames(key)
    if kind == "webdav":
        server.files = files
    else:
        server.objects = files


def take_all(kind, server):
    """Remove all exported files, as a program does that processes them."""
    files = server.files if kind == "webdav" else server.objects
    for name in [name for name in files if ".aluma-async" not in name]:
        del files[name]


def hold_back(server, name):
    """Answer requests for a name only when a file was stored, or after a while."""

    async def hook(_, path):
        if path.endswith(name):
            with anyio.move_on_after(0.3):
                while not server.exported:  # noqa: ASYNC110
                    await anyio.sleep(0.01)

    server.hook = hook


@pairs
@kinds
@conflicts
@pytest.mark.parametrize("late", [0, 1])
@real_time
async def test_server_keeps_all_files_of_a_task(kind, on_conflict, key, first, second, late):
    """In whatever order they are stored, also when the task is exported again after its files were taken."""
    claim = make_claim("t", ("", first), ("", second))
    async with open_server(kind, on_conflict=on_conflict) as (server, destination):
        equal_names(kind, server, key)
        for contents in (("one", "two!"), ("1", "2.")):
            hold_back(server, (first, second)[late])
            await deliver(destination, claim, *contents)
            assert sorted(server.exported.values()) == sorted(content.encode() for content in contents)
            take_all(kind, server)


@pairs
@kinds
@real_time
async def test_server_keeps_the_file_of_another_task(kind, key, first, second):
    """The other task got the name after the first one's file was taken; then the first one is exported again."""
    one, two = make_claim("one", ("", first)), make_claim("two", ("", second))
    async with open_server(kind) as (server, destination):
        equal_names(kind, server, key)
        await deliver(destination, one, "one")
        take_all(kind, server)
        await deliver(destination, two, "two")
        for _ in range(2):
            await deliver(destination, one, "one")
            assert sorted(server.exported.values()) == [b"one", b"two"]


@pytest.mark.parametrize("size", [3, 2_000_000])
@kinds
@real_time
async def test_export_replaces_its_own_file_with_another_content(kind, size):
    """What lies under a name of the task is the content that the task delivered before."""
    claim = make_claim("t", ("", "a.txt"), ("", "b.txt"), ("", "same.txt"), ("", "same too.txt"))
    async with open_server(kind, manifest=True) as (server, destination):
        for content in ("x", "y", "y", "z"):
            await deliver(destination, claim, content * size, "", content, content)
            assert set(server.exported) == {"a.txt", "b.txt", "same.txt", "same too.txt", "manifests/t.json"}
            assert server.exported["a.txt"] == content.encode() * size
            assert server.exported["b.txt"] == b""


@real_time
async def test_webdav_keeps_a_file_that_another_program_has_changed():
    """The exporter cannot know whose file it is, so the task's file gets another name."""
    claim = make_claim("t", ("", "a.txt"))
    async with open_server("webdav") as (server, destination):
        await deliver(destination, claim, "one")
        server.files["export/a.txt"] = b"changed"
        with pytest.raises(AlreadyExported):
            await deliver(destination, msgspec.structs.replace(claim, may_replace=False), "one")
        for content in ("one", "two"):
            await deliver(destination, claim, content)
            assert sorted(server.exported.values()) == sorted((b"changed", content.encode()))


@real_time
async def test_task_keeps_its_own_file_when_its_replacement_failed_before():
    """The first attempt has renewed the owner record; the second one must still know the earlier content."""
    claim = make_claim("t", ("", "a.txt"))
    async with open_server("webdav") as (server, destination):
        await deliver(destination, claim, "one")
        server.hook = None
        await refuse_move(server, destination, claim)
        await deliver(destination, claim, "three")
        assert server.exported == {"a.txt": b"three"}


async def refuse_move(server, destination, claim):
    """Deliver a task while no file may be replaced."""

    async def hook(request, path):
        is_final = "a.txt" in request.headers.get("Destination", "")
        return web.Response(status=423) if request.method == "MOVE" and is_final else None

    server.hook = hook
    with pytest.raises(DestinationError):
        await deliver(destination, claim, "two")
    server.hook = None
    assert server.exported == {"a.txt": b"one"}


@real_time
async def test_refused_redelivery_leaves_the_next_export_its_file():
    claim = make_claim("t", ("", "a.txt"))
    old = msgspec.structs.replace(claim, may_replace=False)
    async with open_server("webdav") as (server, destination):
        await deliver(destination, claim, "one")
        with pytest.raises(AlreadyExported):
            await deliver(destination, old, "older")
        await deliver(destination, claim, "two")
        assert server.exported == {"a.txt": b"two"}


@real_time
async def test_file_is_replaced_when_it_has_another_number_than_before():
    """The next specification has one more document in front."""
    async with open_server("webdav") as (server, destination):
        await deliver(destination, make_claim("t", ("", "a.txt")), "one")
        await deliver(destination, make_claim("t", ("", "0.txt"), ("", "a.txt")), "new", "two")
        assert server.exported == {"0.txt": b"new", "a.txt": b"two"}
