"""What a manifest promises: a JSON for each task, that tells of every file as it is stored, and is written last."""

import hashlib
import json
import sqlite3
from contextlib import asynccontextmanager, closing

import anyio
import pytest

from aluma_async.config import Config
from aluma_async.destinations.common.manifest import StoredFile, render_manifest
from aluma_async.destinations.folder.destination import FolderDestination
from aluma_async.destinations.object_store.destination import ObjectStoreDestination
from aluma_async.destinations.registry import open_destinations
from aluma_async.destinations.sql.destination import SqlDestination
from aluma_async.destinations.webdav.client import open_session
from aluma_async.destinations.webdav.destination import WebDavDestination
from aluma_async.exceptions import DestinationError
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.policy.naming import owner_suffix
from tests.support import buckets

WHEN = 1_800_000_000.25


def claim(task_id, *names):
    files = tuple(ExportFile(i, i // 2, folder, name, "url", url="/f") for i, (folder, name) in enumerate(names))
    return Claim(ExportTask(task_id, "a name", "p1", "Invoices"), ExportSpec(files), 0.0)


async def chunks(*parts):
    for part in parts:
        yield part


async def deliver(destination, what, *data):
    async with destination.open(what) as delivery:
        for file, content in zip(what.spec.files, data, strict=True):
            await delivery.save(file, chunks(content))


class Bucket:
    def __init__(self, options, prefix):
        self._options, self._prefix = options, prefix

    @asynccontextmanager
    async def opened(self, **options):
        url = f"s3://bucket/{self._prefix}"
        yield ObjectStoreDestination(url, options=self._options, manifest=True, now=lambda: WHEN, **options)

    def tree(self):
        found = buckets.read_objects(self._options, self._prefix).items()
        return {key.removeprefix(f"{self._prefix}/"): data for key, data in found}


class Dav:
    def __init__(self, url, folder):
        self._url, self._folder = url, folder

    @asynccontextmanager
    async def opened(self, **options):
        async with open_session({}) as session:
            yield WebDavDestination(session, self._url, manifest=True, now=lambda: WHEN, **options)

    def tree(self):
        return files_below(self._folder)


class Folder:
    def __init__(self, root):
        self._root = root

    @asynccontextmanager
    async def opened(self, **options):
        destination = FolderDestination(self._root, manifest=True, now=lambda: WHEN, **options)
        await destination.probe()
        yield destination
        destination.close()

    def tree(self):
        return files_below(self._root)


def files_below(root):
    paths = [path for path in root.rglob("*") if path.is_file() and ".aluma-async" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def moto():
    with buckets.run_moto() as options:
        yield options


@pytest.fixture(params=["folder", "object-store", "webdav"])
def place(request, tmp_path, moto):
    if request.param == "object-store":
        yield Bucket(moto, request.node.name.replace("[", "-").replace("]", ""))
    elif request.param == "folder":
        yield Folder(tmp_path / "root")
    else:
        (tmp_path / "root").mkdir()
        with buckets.run_rclone("webdav", tmp_path / "root") as url:
            yield Dav(url, tmp_path / "root")


def test_it_tells_task_time_and_files():
    what = claim("t1", ("a/b", "c.pdf"))
    text = render_manifest(what, [StoredFile(what.spec.files[0], "a/b/c~2.pdf", 3, "ab")], WHEN)
    assert json.loads(text) == {
        "version": 1,
        "task": {"id": "t1", "name": "a name", "project_id": "p1", "project_name": "Invoices"},
        "exported_at": "2027-01-15T08:00:00.250+00:00",
        "files": [
            {"path": "a/b/c~2.pdf", "size": 3, "sha256": "ab", "document": 0, "folder": "a/b", "filename": "c.pdf"}
        ],
    }


def test_a_name_that_is_no_text_does_not_break_it():
    what = claim("t1", ("\ud800", "x\udfff.pdf"))
    assert (
        json.loads(render_manifest(what, [StoredFile(what.spec.files[0], "x", 0, "")], WHEN))["files"][0]["folder"]
        == "?"
    )


def test_every_file_is_told_of_as_it_is_stored(place):
    """Also where its name was another's, or was made safe."""

    async def main():
        async with place.opened() as destination:
            await deliver(destination, claim("other", ("in", "a.txt")), b"other")
            await deliver(
                destination, claim("t", ("in", "a.txt"), ("in", "a.txt"), ("..", "b?.txt")), b"1", b"22", b"3"
            )

    anyio.run(main)
    tree = place.tree()
    told = json.loads(tree.pop("manifests/t.json"))
    assert [each["filename"] for each in told["files"]] == ["a.txt", "a.txt", "b?.txt"]
    assert [each["document"] for each in told["files"]] == [0, 0, 1]
    for each, data in zip(told["files"], (b"1", b"22", b"3"), strict=True):
        assert tree.pop(each["path"]) == data
        assert (each["size"], each["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert set(tree) == {"in/a.txt", "manifests/other.json"}


def test_two_files_of_a_task_never_share_a_place(place):
    """Not even where one is called what the other is given, since its own name is another task's."""
    given = f"a~{owner_suffix('t')}.txt"

    async def main():
        async with place.opened() as destination:
            await deliver(destination, claim("other", ("", "a.txt")), b"other")
            for _ in range(2):
                await deliver(destination, claim("t", ("", "a.txt"), ("", given)), b"1", b"2")

    anyio.run(main)
    tree = place.tree()
    told = json.loads(tree.pop("manifests/t.json"))["files"]
    assert [tree[each["path"]] for each in told] == [b"1", b"2"]
    assert set(tree) == {"a.txt", "manifests/other.json", *(each["path"] for each in told)}


def test_the_same_task_again_replaces_it(place):
    async def main():
        async with place.opened() as destination:
            await deliver(destination, claim("t", ("", "a.txt")), b"before")
            await deliver(destination, claim("t", ("", "a.txt")), b"after")

    anyio.run(main)
    tree = place.tree()
    assert set(tree) == {"a.txt", "manifests/t.json"}
    assert json.loads(tree["manifests/t.json"])["files"][0]["size"] == len(b"after")


def test_it_is_not_there_unless_every_file_is(place):
    async def main():
        async with place.opened(on_conflict="fail") as destination:
            await deliver(destination, claim("other", ("", "a.txt")), b"other")
            with pytest.raises(DestinationError):
                await deliver(destination, claim("t", ("", "b.txt"), ("", "a.txt")), b"1", b"2")

    anyio.run(main)
    assert set(place.tree()) == {"a.txt", "manifests/other.json"}


def test_a_file_that_has_its_name_and_the_manifest_are_both_kept(place):
    async def main():
        async with place.opened() as destination:
            await deliver(destination, claim("t", ("manifests", "t.json")), b"not a manifest")

    anyio.run(main)
    tree = place.tree()
    assert tree.pop("manifests/t.json") == b"not a manifest"
    assert json.loads(tree.popitem()[1])["files"][0]["path"] == "manifests/t.json"


def test_in_a_folder_big_files_are_told_of_too_and_what_an_earlier_attempt_had_finished(tmp_path):
    data = [bytes(3_000_000), b"\r\n" * 1_000_000, b"small"]
    what = claim("t", ("", "a.bin"), ("", "b.bin"), ("", "c.txt"))

    async def main():
        async with Folder(tmp_path / "root").opened() as destination:
            with anyio.CancelScope() as scope:
                async with destination.open(what) as delivery:
                    await delivery.save(what.spec.files[0], chunks(data[0]))
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
            async with destination.open(what) as delivery:
                assert delivery.resumable_size(what.spec.files[0]) == len(data[0])
                for file, content in zip(what.spec.files[1:], data[1:], strict=True):
                    await delivery.save(file, chunks(b"given up", content))
                    await delivery.save(file, chunks(content[:2_000_000], content[2_000_000:]))

    anyio.run(main)
    told = json.loads((tmp_path / "root" / "manifests" / "t.json").read_bytes())["files"]
    assert [each["size"] for each in told] == [len(each) for each in data]
    assert [each["sha256"] for each in told] == [hashlib.sha256(each).hexdigest() for each in data]


def test_in_a_folder_no_file_is_left_if_it_cannot_be_written(tmp_path):
    """Its place is found with those of all others; then something else takes it."""
    root, what = tmp_path / "root", claim("t", ("in", "a.txt"))

    def now():
        (root / "manifests" / "t.json" / "in the way").mkdir(parents=True)
        return WHEN

    async def main():
        destination = FolderDestination(root, manifest=True, now=now)
        await destination.probe()
        with pytest.raises(DestinationError):
            await deliver(destination, what, b"data")
        destination.close()

    anyio.run(main)
    assert not files_below(root)
    assert not list((root / ".aluma-async").rglob("*.part"))


def test_in_a_database_it_is_a_row_beside_the_files(tmp_path):
    what = claim("t", ("in", "a.csv"), ("in", "b.csv"))

    async def main():
        url = f"sqlite:///{tmp_path / 'data.db'}"
        destination = SqlDestination(url, "{stem}", create=True, manifest=True, now=lambda: WHEN)
        await destination.probe()
        await deliver(destination, what, b"x\n1\n", b"x\n2\n3\n")
        await deliver(destination, what, b"x\n1\n", b"x\n2\n")
        with pytest.raises(DestinationError):
            await deliver(destination, claim("u", ("in", "a.csv")), b"y\n1\n")
        await destination.close()

    anyio.run(main)
    with closing(sqlite3.connect(tmp_path / "data.db")) as database:
        ((task, target, text),) = database.execute("SELECT task, target, manifest FROM aluma_manifest").fetchall()
    told = json.loads(text)
    assert (task, target, told["version"]) == ("t", "{stem}", 1)
    assert [(each["path"], each["size"]) for each in told["files"]] == [("a", 4), ("b", 4)]


def test_a_database_without_its_table_is_told_of_at_the_start(tmp_path):
    async def main():
        destination = SqlDestination(f"sqlite:///{tmp_path / 'data.db'}", "{stem}", manifest=True)
        with pytest.raises(DestinationError, match="table aluma_manifest does not exist"):
            await destination.probe()
        await destination.close()

    anyio.run(main)


def test_it_is_asked_for_in_the_config(tmp_path, moto):
    options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in moto.items())
    text = f"""
        [destinations.bucket]
        type = "object-store"
        url = "s3://bucket/configured"
        options = {{ {options} }}
        manifest = true
    """

    async def main():
        configs = Config.from_toml(text, "c.toml").destinations
        async with open_destinations(configs, tmp_path / "state") as destinations:
            for destination in destinations.values():
                await destination.probe()
                await deliver(destination, claim("t", ("", "a.txt")), b"data")

    anyio.run(main)
    assert "manifests/t.json" in Bucket(moto, "configured").tree()
