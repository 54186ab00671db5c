"""The manifest of a task at each kind of destination: it lists every file as stored, and is published last."""

import hashlib
import json
import sqlite3
from contextlib import asynccontextmanager, closing

import pytest
from msgspec.structs import replace

from aluma_async.config import Config
from aluma_async.destinations.folder.destination import FolderDestination
from aluma_async.destinations.object_store.destination import ObjectStoreDestination
from aluma_async.destinations.registry import open_destinations
from aluma_async.destinations.sql.destination import SqlDestination
from aluma_async.destinations.webdav.client import open_session
from aluma_async.destinations.webdav.destination import WebDavDestination
from aluma_async.exceptions import AlreadyExported, DestinationError
from aluma_async.policy.naming import owner_suffix
from tests.support import buckets
from tests.support.clock import real_time
from tests.support.folders import exported_files
from tests.support.tasks import deliver, make_claim

EXPORTED_AT = 1_800_000_000.25


class Bucket:
    """A prefix in a bucket."""

    def __init__(self, options, prefix):
        self._options, self._prefix = options, prefix

    @asynccontextmanager
    async def open(self, **options):
        url = f"s3://bucket/{self._prefix}"
        yield ObjectStoreDestination(url, options=self._options, manifest=True, now=lambda: EXPORTED_AT, **options)

    def files(self):
        objects = buckets.read_objects(self._options, self._prefix)
        return {key.removeprefix(f"{self._prefix}/"): data for key, data in objects.items()}


class WebDav:
    """A WebDAV server and the folder that it serves."""

    def __init__(self, url, folder):
        self._url, self._folder = url, folder

    @asynccontextmanager
    async def open(self, **options):
        async with open_session({}) as session:
            yield WebDavDestination(session, self._url, manifest=True, now=lambda: EXPORTED_AT, **options)

    def files(self):
        return exported_files(self._folder)


class Folder:
    """A folder on this machine."""

    def __init__(self, root):
        self._root = root

    @asynccontextmanager
    async def open(self, **options):
        destination = FolderDestination(self._root, manifest=True, now=lambda: EXPORTED_AT, **options)
        await destination.probe()
        yield destination
        destination.close()

    def files(self):
        return exported_files(self._root)


@pytest.fixture(params=["folder", "object-store", "webdav"])
def target(request, tmp_path):
    """A target of each kind; ``open`` opens its destination, and ``files`` returns what is visible there."""
    if request.param == "object-store":
        yield Bucket(request.getfixturevalue("moto"), request.getfixturevalue("prefix"))
    elif request.param == "folder":
        yield Folder(tmp_path / "root")
    else:
        (tmp_path / "root").mkdir()
        with buckets.run_rclone("webdav", tmp_path / "root") as url:
            yield WebDav(url, tmp_path / "root")


@real_time
async def test_manifest_lists_every_file_as_stored(target):
    """Also where the name belongs to another task, or is not safe."""
    async with target.open() as destination:
        await deliver(destination, make_claim("other", "a.txt"), b"other")
        await deliver(destination, make_claim("t", "a.txt", "a.txt", ("..", "b?.txt")), b"1", b"22", b"3")
    files = target.files()
    listed = json.loads(files.pop("manifests/t.json"))["files"]
    assert [file["filename"] for file in listed] == ["a.txt", "a.txt", "b?.txt"]
    assert [file["document"] for file in listed] == [0, 0, 1]
    for file, data in zip(listed, (b"1", b"22", b"3"), strict=True):
        assert files.pop(file["path"]) == data
        assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert set(files) == {"in/a.txt", "manifests/other.json"}


@real_time
async def test_two_files_of_a_task_never_get_one_path(target):
    """Not even if one has the name that the other gets because its own belongs to another task."""
    alternative = f"a~{owner_suffix('t')}.txt"
    async with target.open() as destination:
        await deliver(destination, make_claim("other", ("", "a.txt")), b"other")
        for _ in range(2):
            await deliver(destination, make_claim("t", ("", "a.txt"), ("", alternative)), b"1", b"2")
    files = target.files()
    listed = json.loads(files.pop("manifests/t.json"))["files"]
    assert [files[file["path"]] for file in listed] == [b"1", b"2"]
    assert set(files) == {"a.txt", "manifests/other.json", *(file["path"] for file in listed)}


@real_time
async def test_second_export_replaces_the_manifest(target):
    async with target.open() as destination:
        await deliver(destination, make_claim("t", ("", "a.txt")), b"before")
        await deliver(destination, make_claim("t", ("", "a.txt")), b"after")
    files = target.files()
    assert set(files) == {"a.txt", "manifests/t.json"}
    assert json.loads(files["manifests/t.json"])["files"][0]["size"] == len(b"after")


@real_time
async def test_redelivery_keeps_the_manifest_of_an_earlier_export(target):
    """Its copy may lack files, and the manifest lists them."""
    claim = make_claim("t1", "a.txt", "b.txt")
    async with target.open() as destination:
        await deliver(destination, claim, "one", "two")
        before = target.files()
        older = replace(claim, spec=replace(claim.spec, files=claim.spec.files[:1]), may_replace=False)
        await deliver(destination, older, "one")
        assert target.files() == before
        with pytest.raises(AlreadyExported):
            await deliver(destination, older, "another")
        assert target.files() == before


@pytest.mark.parametrize("size", [5, 2_000_000])
@real_time
async def test_redelivery_replaces_no_file_of_another_task(target, size):
    """With ``on_conflict = "overwrite"`` the file may be that of a newer task."""
    claim = make_claim("t1", "a.txt")
    async with target.open(on_conflict="overwrite") as destination:
        await deliver(destination, make_claim("t2", "a.txt"), "x" * size)
        before = target.files()
        with pytest.raises(AlreadyExported):
            await deliver(destination, replace(claim, may_replace=False), "y" * size)
        assert {data for path, data in target.files().items() if path.endswith(".txt")} == {b"x" * size}
        await deliver(destination, claim, "y" * size)
        assert target.files().keys() >= before.keys()


@real_time
async def test_manifest_exists_only_if_every_file_does(target):
    async with target.open(on_conflict="fail") as destination:
        await deliver(destination, make_claim("other", ("", "a.txt")), b"other")
        with pytest.raises(DestinationError):
            await deliver(destination, make_claim("t", ("", "b.txt"), ("", "a.txt")), b"1", b"2")
    assert set(target.files()) == {"a.txt", "manifests/other.json"}


@real_time
async def test_folder_of_manifests_is_reserved(target):
    """No document of this or another task can look like a manifest, or prevent one."""
    paths = [("manifests", "t.json"), ("Manifests", "other.json"), ("manifests/x", "a.txt"), ("", "manifests")]
    async with target.open() as destination:
        await deliver(destination, make_claim("t", *paths), *"1234")
    files = target.files()
    listed = json.loads(files.pop("manifests/t.json"))["files"]
    assert [files.pop(file["path"]) for file in listed] == [b"1", b"2", b"3", b"4"]
    assert {file["path"].partition("/")[0].partition("~")[0].lower() for file in listed} == {"_manifests"}
    assert not files


@real_time
async def test_manifest_in_a_database_is_a_row_in_the_same_transaction(tmp_path):
    claim = make_claim("t", "a.csv", "b.csv")
    url = f"sqlite:///{tmp_path / 'data.db'}"
    destination = SqlDestination(url, "{stem}", create=True, manifest=True, now=lambda: EXPORTED_AT)
    await destination.probe()
    await deliver(destination, claim, b"x\n1\n", b"x\n2\n3\n")
    await deliver(destination, claim, b"x\n1\n", b"x\n2\n")
    with pytest.raises(DestinationError):
        await deliver(destination, make_claim("u", "a.csv"), b"y\n1\n")
    await destination.close()
    with closing(sqlite3.connect(tmp_path / "data.db")) as database:
        ((task, target, text),) = database.execute("SELECT task, target, manifest FROM aluma_manifest").fetchall()
    manifest = json.loads(text)
    assert (task, target, manifest["version"]) == ("t", "{stem}", 1)
    assert [(file["path"], file["size"]) for file in manifest["files"]] == [("a", 4), ("b", 4)]


@real_time
async def test_probe_of_a_database_reports_a_missing_manifest_table(tmp_path):
    destination = SqlDestination(f"sqlite:///{tmp_path / 'data.db'}", "{stem}", manifest=True)
    with pytest.raises(DestinationError, match="table aluma_manifest does not exist"):
        await destination.probe()
    await destination.close()


@real_time
async def test_manifest_is_enabled_in_the_config(tmp_path, moto, prefix):
    options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in moto.items())
    text = f"""
        [destinations.bucket]
        type = "object-store"
        url = "s3://bucket/{prefix}"
        options = {{ {options} }}
        manifest = true
    """
    configs = Config.from_toml(text, "c.toml").destinations
    async with open_destinations(configs, tmp_path / "state") as destinations:
        for destination in destinations.values():
            await destination.probe()
            await deliver(destination, make_claim("t", ("", "a.txt")), b"data")
    assert "manifests/t.json" in Bucket(moto, prefix).files()
