"""Modes, groups and access control lists of exported files, and their names on disk."""

import os
import stat
import struct

import pytest

from aluma_async.policy.naming import with_suffix
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files, open_folder

LARGE = b"x" * 2_000_000


@pytest.fixture
def umask():
    """Return a function that sets the umask; it is restored at the end."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


async def deliver_to(root, **options):
    """Deliver a small and a large file into a folder, with a manifest; return the modes of root, folder and files."""
    async with open_folder(root, manifest=True, **options) as destination:
        await deliver(destination, claim_of("t", "in/small", "in/large"), b"1", LARGE)
    paths = [root, root / "in", root / "in" / "small", root / "in" / "large", root / "manifests" / "t.json"]
    return [oct(mode(path)) for path in paths]


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
@real_time
async def test_files_and_folders_follow_the_umask(mask, umask, tmp_path):
    umask(mask)
    file, folder = oct(0o666 & ~mask), oct(0o777 & ~mask)
    assert await deliver_to(tmp_path / "out") == [folder, folder, file, file, file]
    assert mode(tmp_path / "out" / ".aluma-async") == 0o700


@pytest.mark.parametrize("mask", [0o002, 0o077])
@real_time
async def test_configured_modes_do_not_depend_on_the_umask(mask, umask, tmp_path):
    umask(mask)
    modes = await deliver_to(tmp_path / "out", file_mode=0o640, folder_mode=0o750)
    assert modes == ["0o750", "0o750", "0o640", "0o640", "0o640"]


@real_time
async def test_folder_that_exists_keeps_its_mode(umask, tmp_path):
    (tmp_path / "out" / "in").mkdir(parents=True)
    (tmp_path / "out" / "in").chmod(0o711)
    assert (await deliver_to(tmp_path / "out", folder_mode=0o700))[:2] == ["0o755", "0o711"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may use any group")
@pytest.mark.parametrize("folder_mode", [None, 0o750])
@real_time
async def test_files_get_the_group_of_their_setgid_folder(folder_mode, umask, tmp_path):
    """The staging folder, where they are written, may have another one."""
    root, group = tmp_path / "out", 12345
    for folder in (root / "in", root / "plain"):
        folder.mkdir(parents=True)
    os.chown(root / "in", -1, group)
    (root / "in").chmod(0o2775)
    async with open_folder(root, folder_mode=folder_mode) as destination:
        await deliver(destination, claim_of("t", "in/a", "in/new/b", "plain/c"), b"1", LARGE, b"3")
    assert [(root / name).stat().st_gid for name in ("in/a", "in/new", "in/new/b")] == [group] * 3
    assert mode(root / "in" / "new") & stat.S_ISGID
    assert (root / "plain" / "c").stat().st_gid == os.getegid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may use any group")
@real_time
async def test_group_of_a_setgid_root_is_not_passed_to_a_plain_folder(umask, tmp_path):
    root, group = tmp_path / "out", 12345
    (root / "plain").mkdir(parents=True)
    os.chown(root, -1, group)
    root.chmod(0o2775)
    async with open_folder(root) as destination:
        await deliver(destination, claim_of("t", "a", "plain/b"), b"1", b"2")
    assert (root / "a").stat().st_gid == group
    assert (root / "plain" / "b").stat().st_gid == os.getegid()


USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
ANYBODY = 0xFFFFFFFF


def acl(*entries):
    """Return an access control list as the kernel stores it; an entry is (tag, rights, user)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


READER = acl((USER_OBJ, 7, ANYBODY), (USER, 7, 4711), (GROUP_OBJ, 5, ANYBODY), (MASK, 7, ANYBODY), (OTHER, 0, ANYBODY))
MINIMAL = acl((USER_OBJ, 7, ANYBODY), (GROUP_OBJ, 7, ANYBODY), (OTHER, 5, ANYBODY))


def access_of(path):
    """Return the access control list of a file; None if it has only a mode."""
    try:
        return os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return None


@pytest.mark.parametrize("default", [READER, MINIMAL])
@pytest.mark.parametrize("folder", ["out", "out/in"])
@real_time
async def test_default_access_control_list_of_a_folder_is_passed_on(default, folder, umask, tmp_path):
    """The files are as if they had been created in the folder."""
    umask(0o027)
    root = tmp_path / "out"
    (root / "plain").mkdir(parents=True)
    (root / "in").mkdir()
    try:
        os.setxattr(tmp_path / folder, "system.posix_acl_default", default)
    except OSError:
        pytest.skip("the file system has no access control lists")
    (tmp_path / folder / "expected").touch()
    (root / "plain" / "expected").touch()
    name = f"{folder}/a".removeprefix("out/")
    async with open_folder(root) as destination:
        await deliver(destination, claim_of("t", name, f"{name}2", "plain/a"), b"1", LARGE, b"3")
    for path in (tmp_path / folder / "a", tmp_path / folder / "a2", root / "plain" / "a"):
        expected = path.with_name("expected")
        assert (access_of(path), oct(mode(path))) == (access_of(expected), oct(mode(expected))), path


@real_time
async def test_names_fit_a_file_system_with_a_lower_limit(tmp_path, monkeypatch):
    """As eCryptfs: 143 bytes. Different names stay different, and exporting a task again gives the same names."""
    monkeypatch.setattr(os, "fpathconf", lambda *_: 143)
    long = "ü" * 100
    async with open_folder(tmp_path) as destination:
        for _ in range(2):
            await deliver(destination, claim_of("t", f"{long}/{long}1.pdf", f"{long}/{long}2.pdf"), b"1", b"2")
            await deliver(destination, claim_of("other", f"{long}/{long}1.pdf"), b"3")
    exported = exported_files(tmp_path)
    assert sorted(exported.values()) == [b"1", b"2", b"3"]
    assert all(len(part.encode()) <= 143 for name in exported for part in name.split("/"))
    assert all(name.endswith(".pdf") for name in exported)


@pytest.mark.parametrize("limit", [-1, 0, 14, 255, 1530, OSError()])
@real_time
async def test_limit_that_makes_no_sense_is_ignored(limit, tmp_path, monkeypatch):
    def fpathconf(*_):
        if isinstance(limit, OSError):
            raise limit
        return limit

    monkeypatch.setattr(os, "fpathconf", fpathconf)
    (name,) = with_suffix(("x" * 300 + ".pdf",), "1")
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("t", name), b"1")
    assert exported_files(tmp_path) == {name: b"1"}
