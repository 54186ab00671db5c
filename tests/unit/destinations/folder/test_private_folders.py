"""The folders in which files are staged belong to the exporter alone; another user cannot choose or replace a file."""

import os

import pytest

from aluma_async import FolderDestination
from aluma_async.destinations.folder import fs
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files, open_folder

OTHER = 1234
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change owners")


@pytest.mark.parametrize("kind", ["file", "link", "hard link"])
def test_created_file_is_never_one_that_was_there(kind, tmp_path):
    """Neither it nor the file that a link leads to is written to, and its owner does not get the new content."""
    victim, name = tmp_path / "victim", tmp_path / "name"
    victim.write_bytes(b"old")
    if kind == "file":
        name.write_bytes(b"planted")
    elif kind == "link":
        name.symlink_to(victim)
    else:
        name.hardlink_to(victim)
    folder = fs.open_folder(tmp_path)
    with name.open("rb") as planted:
        os.close(fs.write_file(folder, "name", b"new", sync=False))
        assert planted.read() != b"new"
    os.close(folder)
    assert victim.read_bytes() == b"old"
    assert name.read_bytes() == b"new"
    assert not name.is_symlink()


@as_root
@pytest.mark.parametrize("folder", ["", "staging", "kept"])
@pytest.mark.parametrize("mode", [0o700, 0o777])
@real_time
async def test_probe_refuses_an_internal_folder_of_another_user(folder, mode, tmp_path):
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("t", "a"), b"1")
    planted = tmp_path / ".aluma-async" / folder
    planted.mkdir(exist_ok=True)
    planted.chmod(mode)
    os.chown(planted, OTHER, OTHER)
    destination = FolderDestination(tmp_path)
    with pytest.raises(DestinationUnavailable, match=f"belongs to the user {OTHER}") as error:
        await destination.probe()
    assert error.value.for_all
    assert "Change its owner" in error.value.hint
    os.chown(planted, 0, 0)
    await destination.probe()
    destination.close()


@as_root
@real_time
async def test_probe_refuses_a_new_internal_folder_of_another_user(tmp_path):
    """It was created before the first run, without a marker, in a folder that all users may write to."""
    tmp_path.chmod(0o1777)
    (tmp_path / ".aluma-async").mkdir()
    os.chown(tmp_path / ".aluma-async", OTHER, OTHER)
    destination = FolderDestination(tmp_path)
    with pytest.raises(DestinationUnavailable, match=f"belongs to the user {OTHER}"):
        await destination.probe()
    assert not list((tmp_path / ".aluma-async").iterdir())


@as_root
@pytest.mark.parametrize("owner", [OTHER, 0])
@real_time
async def test_owner_of_the_root_folder_may_own_the_internal_ones(owner, tmp_path):
    """Such as a folder of the host that is mounted in a container: its owner has all rights on it anyway."""
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("t", "a"), b"1")
    for path in (tmp_path, *(tmp_path / ".aluma-async").rglob("*"), tmp_path / ".aluma-async"):
        os.chown(path, OTHER if path == tmp_path else owner, -1)
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("t", "a"), b"2")
    assert exported_files(tmp_path) == {"a": b"2"}


@real_time
async def test_share_that_maps_users_or_has_no_modes_is_accepted(tmp_path, monkeypatch):
    """Such as NFS with root_squash, or CIFS: all files belong to one user, and all may write to them."""
    fstat, stat = os.fstat, os.stat

    def mapped(status):
        fields = list(status)
        fields[0], fields[4] = fields[0] | 0o777, OTHER
        return os.stat_result(fields, {"st_mtime_ns": status.st_mtime_ns})

    monkeypatch.setattr(os, "fstat", lambda fd: mapped(fstat(fd)))
    monkeypatch.setattr(os, "stat", lambda *path, **options: mapped(stat(*path, **options)))
    async with open_folder(tmp_path / "out") as destination:
        await deliver(destination, claim_of("t", "a"), b"1")
    assert exported_files(tmp_path / "out") == {"a": b"1"}


@pytest.mark.parametrize("name", ["", "staging", "kept"])
@real_time
async def test_internal_folder_that_is_a_link_is_not_followed(name, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "out" / ".aluma-async" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    destination = FolderDestination(tmp_path / "out")
    with pytest.raises(DestinationError, match=r"directory|link"):
        await destination.probe()
    assert not list(outside.iterdir())
