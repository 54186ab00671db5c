"""Which files ``WebDavDestination`` publishes, replaces and removes, with ``rclone serve webdav``."""

import os
import time
from collections import Counter
from contextlib import suppress

import aiohttp
import anyio
import pytest

from aluma_async.exceptions import DestinationError
from tests.support.clock import real_time
from tests.support.tasks import deliver, make_claim
from tests.support.webdav import open_webdav, read_exported


async def delete(url):
    """Delete a file or folder, as another program does."""
    async with aiohttp.request("DELETE", url) as response:
        assert response.status == 204


@real_time
async def test_names_are_kept_and_stay_below_the_root(webdav_url, webdav_folder):
    paths = [("a b/ü", "100% #1?.pdf"), ("../..", "out.txt"), ("", ".aluma-async"), ("x", "a%2Fb.txt")]
    async with open_webdav(webdav_url) as destination:
        await deliver(destination, make_claim("t", *paths), *[name for _, name in paths])
    assert set(read_exported(webdav_folder)) == {"a b/ü/100% #1_.pdf", "out.txt", "_.aluma-async", "x/a%2Fb.txt"}
    assert not list(webdav_folder.parent.glob("out*"))


@pytest.mark.parametrize(
    ("on_conflict", "remaining"), [("keep-both", [b"one", b"two"]), ("overwrite", [b"two"]), ("fail", [b"one"])]
)
@real_time
async def test_on_conflict_decides_about_a_file_of_another_task(webdav_url, webdav_folder, on_conflict, remaining):
    claim = make_claim("two", "b.txt", "a.txt")
    async with open_webdav(webdav_url, on_conflict=on_conflict) as destination:
        await deliver(destination, make_claim("one", "a.txt"), b"one")
        for _ in range(2):
            if on_conflict == "fail":
                with pytest.raises(DestinationError, match="file 1: another file already has this name"):
                    await deliver(destination, claim, b"two", b"two")
            else:
                await deliver(destination, claim, b"two", b"two")
    expected = remaining if on_conflict == "fail" else [*remaining, b"two"]
    assert Counter(read_exported(webdav_folder).values()) == Counter(expected)


@real_time
async def test_file_of_another_program_is_not_replaced(webdav_url, webdav_folder):
    (webdav_folder / "export").mkdir()
    (webdav_folder / "export" / "a.txt").write_bytes(b"foreign")
    async with open_webdav(webdav_url) as destination:
        await deliver(destination, make_claim("t", ("", "a.txt")), b"exported")
    files = read_exported(webdav_folder)
    assert files.pop("a.txt") == b"foreign"
    assert list(files.values()) == [b"exported"]


@real_time
async def test_folder_gets_another_name_where_a_file_has_its_name(webdav_url, webdav_folder):
    async with open_webdav(webdav_url) as destination:
        await deliver(destination, make_claim("one", ("", "a")), b"file")
        for _ in range(2):
            await deliver(destination, make_claim("two", ("a", "b.txt")), b"below")
    assert len(read_exported(webdav_folder)) == 2
    assert read_exported(webdav_folder)["a"] == b"file"


@real_time
async def test_probe_removes_staged_files_of_crashed_runs_after_a_day(webdav_url, webdav_folder):
    staging = webdav_folder / "export" / ".aluma-async" / "staging"
    staging.mkdir(parents=True)
    for name, age in (("0123456789abcdef-1-0.part", 90_000), ("0123456789abcdef-2-0.part", 60), ("foreign", 90_000)):
        (staging / name).write_bytes(b"left")
        os.utime(staging / name, (time.time() - age,) * 2)
    async with open_webdav(webdav_url) as destination:
        await destination.probe()
    assert {path.name for path in staging.iterdir()} == {"0123456789abcdef-2-0.part", "foreign"}


@pytest.mark.parametrize("on_conflict", ["keep-both", "overwrite"])
@real_time
async def test_file_never_replaces_a_folder(webdav_url, webdav_folder, on_conflict):
    """A server would delete everything in the folder."""
    one = make_claim("one", ("a", "x.txt"), ("b", "y.txt"))
    two = make_claim("two", ("", "a"), ("", "b"))
    async with open_webdav(webdav_url, on_conflict=on_conflict) as destination:
        await deliver(destination, make_claim("one", ("a", "x.txt")), b"in a folder")
        await deliver(destination, two, b"two", b"two")
        await delete(f"{webdav_url}/b")
        await deliver(destination, one, b"in a folder", b"in a folder")
        await deliver(destination, two, b"two", b"two")
    files = read_exported(webdav_folder)
    assert files.pop("a/x.txt") == files.pop("b/y.txt") == b"in a folder"
    assert list(files.values()) == [b"two", b"two"]


@real_time
async def test_deleted_folder_is_created_again_by_the_next_attempt(webdav_url, webdav_folder):
    async with open_webdav(webdav_url) as destination:
        await deliver(destination, make_claim("one", ("in/deep", "a.txt")), b"one")
        await delete(f"{webdav_url}/in/")
        claim = make_claim("two", ("in/deep", "b.txt"))
        with suppress(DestinationError):  # rclone creates the folder itself
            await deliver(destination, claim, b"two")
        await deliver(destination, claim, b"two")
    assert read_exported(webdav_folder) == {"in/deep/b.txt": b"two"}


@real_time
async def test_concurrent_tasks_with_the_same_name_are_all_kept(webdav_url, webdav_folder):
    async with open_webdav(webdav_url) as destination, anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(deliver, destination, make_claim(f"t{number}", "same.txt"), str(number))
    assert sorted(map(int, read_exported(webdav_folder).values())) == list(range(12))


@real_time
async def test_big_file_is_stored_unchanged(webdav_url, webdav_folder):
    content = bytes(range(256)) * 30_000
    async with open_webdav(webdav_url) as destination:
        await deliver(destination, make_claim("t", ("", "big.bin")), content)
    assert read_exported(webdav_folder) == {"big.bin": content}


@real_time
async def test_new_files_are_deleted_when_one_cannot_be_published(webdav_url, webdav_folder):
    async with open_webdav(webdav_url, on_conflict="fail") as destination:
        await deliver(destination, make_claim("other", ("", "taken.txt")), b"other")
        paths = [*(("in", f"{number}.txt") for number in range(10)), ("", "taken.txt")]
        with pytest.raises(DestinationError, match="file 10: another file already has this name"):
            await deliver(destination, make_claim("t", *paths), *[b"new"] * len(paths))
    assert read_exported(webdav_folder) == {"taken.txt": b"other"}
    internal = [path for path in (webdav_folder / "export" / ".aluma-async").rglob("*") if path.is_file()]
    assert Counter(path.parent.parent.name for path in internal) == {"owners": 1, "contents": 1}, "of taken.txt"
