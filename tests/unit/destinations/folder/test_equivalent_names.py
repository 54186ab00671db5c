"""Names that the file system regards as equal, or that are taken at the last moment: no file is replaced."""

import asyncio
import errno
import os

import pytest

from aluma_async.destinations.folder import no_replace
from aluma_async.exceptions import DestinationError
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files, open_folder

HYPHENATED, PLAIN = "inv\u00adoice.pdf", "invoice.pdf"
"""The soft hyphen is ignored by ext4 with casefold and by APFS."""


@pytest.fixture
def ignores_hyphens(monkeypatch):
    """Let the file system regard names as equal that differ only in soft hyphens."""

    def canonical(name):
        return os.fsencode(name).replace("\u00ad".encode(), b"")

    def existing(name, folder):
        if folder is None:
            return name
        listed = map(os.fsencode, os.listdir(folder))  # noqa: PTH208 - Path does not support descriptors
        return next((entry for entry in listed if canonical(entry) == canonical(name)), name)

    def install(function):
        def with_folder(name, *arguments, dir_fd=None, **options):
            return original(existing(name, dir_fd), *arguments, dir_fd=dir_fd, **options)

        original = getattr(os, function)
        monkeypatch.setattr(os, function, with_folder)

    def install_for_two(function):
        def with_folders(name, final, *, src_dir_fd=None, dst_dir_fd=None, **options):
            return original(name, existing(final, dst_dir_fd), src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **options)

        original = getattr(os, function)
        monkeypatch.setattr(os, function, with_folders)

    for function in ("stat", "open", "unlink"):
        install(function)
    for function in ("link", "replace"):
        install_for_two(function)


@pytest.mark.parametrize("ways", [no_replace.WAYS[1:], no_replace.WAYS[2:]])
@pytest.mark.parametrize("on_conflict", ["keep-both", "overwrite"])
@pytest.mark.usefixtures("ignores_hyphens")
@real_time
async def test_files_of_equivalent_names_are_all_kept(ways, on_conflict, tmp_path, monkeypatch):
    """Those of one task, and those of several tasks in one batch; exporting them again gives the same files."""
    monkeypatch.setattr(no_replace, "WAYS", ways)
    async with open_folder(tmp_path, on_conflict=on_conflict) as destination:
        for _ in range(3):
            await deliver(destination, claim_of("t", HYPHENATED, PLAIN), b"1", b"2")
            assert sorted(exported_files(tmp_path).values()) == [b"1", b"2"]
        if on_conflict == "keep-both":
            names = [f"x/{(HYPHENATED, PLAIN)[number % 2]}" for number in range(6)]
            for _ in range(2):
                await asyncio.gather(
                    *(deliver(destination, claim_of(f"s{n}", name), b"s%d" % n) for n, name in enumerate(names))
                )
                kept = {name: data for name, data in exported_files(tmp_path).items() if name.startswith("x/")}
                assert sorted(kept.values()) == [b"s%d" % n for n in range(6)]


@pytest.mark.usefixtures("ignores_hyphens")
@real_time
async def test_task_with_the_same_bytes_does_not_share_a_file_of_an_equivalent_name(tmp_path, monkeypatch):
    """Otherwise the file would have two owners, and each could replace it."""
    monkeypatch.setattr(no_replace, "WAYS", no_replace.WAYS[1:])
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("one", HYPHENATED), b"same")
        await deliver(destination, claim_of("other", PLAIN), b"same")
        await deliver(destination, claim_of("other", PLAIN), b"new")
        assert sorted(exported_files(tmp_path).values()) == [b"new", b"same"]


@pytest.mark.parametrize("ways", [no_replace.WAYS, no_replace.WAYS[1:]])
@real_time
async def test_file_that_another_program_creates_during_a_commit_is_kept(
    ways, destination, before_disk_step, monkeypatch
):
    monkeypatch.setattr(no_replace, "WAYS", ways)
    root = destination.root
    before_disk_step("os.rename os.link", 1, lambda: (root / "a").write_bytes(b"a user's"))
    await deliver(destination, claim_of("t", "a", "b"), b"1", b"2")
    assert sorted(exported_files(root).values()) == [b"1", b"2", b"a user's"]
    before = exported_files(root)
    await deliver(destination, claim_of("t", "a", "b"), b"1", b"2")
    assert exported_files(root) == before


@real_time
async def test_fail_raises_when_another_program_creates_the_file(tmp_path, before_disk_step):
    """The next attempt must not take that file for its own."""
    async with open_folder(tmp_path, on_conflict="fail") as destination:
        before_disk_step("os.rename", 2, lambda: (tmp_path / "b").write_bytes(b"a user's"))
        for _ in range(2):
            with pytest.raises(DestinationError, match="already has this name"):
                await deliver(destination, claim_of("t", "a", "b"), b"1", b"2")
            assert exported_files(tmp_path) == {"b": b"a user's"}


@pytest.fixture
def two_folders(tmp_path):
    """Return the descriptors of two folders; the first one has a file ``staged``."""
    folders = []
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        folders.append(os.open(tmp_path / name, os.O_RDONLY))
    (tmp_path / "source" / "staged").write_bytes(b"new")
    yield folders
    for folder in folders:
        os.close(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("way", no_replace.WAYS)
def test_each_way_moves_a_file_to_a_free_name_only(way, two_folders, tmp_path):
    source, target = two_folders
    (tmp_path / "target" / "taken").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        way(source, b"staged", target, b"taken")
    assert contents(tmp_path / "source") == {"staged": b"new"}
    way(source, b"staged", target, b"free")
    assert contents(tmp_path / "target") == {"taken": b"old", "free": b"new"}
    assert not contents(tmp_path / "source")


@pytest.mark.parametrize("code", ["ENOSYS", "EINVAL", "ENOTSUP", "EPERM", "EACCES"])
def test_ways_that_the_file_system_does_not_support_are_skipped(code, two_folders, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(no_replace, "WAYS", [unsupported, unsupported, no_replace.WAYS[2]])
    (tmp_path / "target" / "taken").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        no_replace.move_new(two_folders[0], "staged", two_folders[1], "taken")
    no_replace.move_new(two_folders[0], "staged", two_folders[1], "free")
    assert contents(tmp_path / "target") == {"taken": b"old", "free": b"new"}


def test_error_of_a_supported_way_is_raised(two_folders, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(no_replace, "WAYS", [full, *no_replace.WAYS[1:]])
    with pytest.raises(OSError, match="full"):
        no_replace.move_new(two_folders[0], "staged", two_folders[1], "free")
