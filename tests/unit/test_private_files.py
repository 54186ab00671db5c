"""The exporter's own folders and files: other users of the machine must not be able to choose or replace them."""

import os

import pytest

from aluma_async.exceptions import ConfigError
from aluma_async.private_files import check_folder, open_private

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change owners")
ME, OTHER = 1000, 1234


def folder_of(path, owner, mode, group=0):
    path.mkdir()
    os.chown(path, owner, group)
    path.chmod(mode)
    return path


@pytest.fixture
def user(monkeypatch):
    """Return a function that sets the user of the exporter; new files belong to root all the same."""
    monkeypatch.setattr(os, "getgroups", lambda: [ME])
    monkeypatch.setattr(os, "getegid", lambda: ME)
    return lambda uid: monkeypatch.setattr(os, "geteuid", lambda: uid)


@pytest.mark.parametrize(
    ("uid", "owner", "mode", "reason"),
    [
        (ME, OTHER, 0o700, "belongs to the user 1234"),
        (ME, OTHER, 0o770, "belongs to the user 1234"),
        (ME, OTHER, 0o777, "every user may write to it"),
        (ME, ME, 0o707, "every user may write to it"),
        (0, OTHER, 0o1777, "every user may write to it"),
    ],
)
def test_folder_that_another_user_controls_is_refused(uid, owner, mode, reason, tmp_path, user):
    user(uid)
    with pytest.raises(ConfigError, match=f"state folder .* is not safe: .*{reason}") as error:
        check_folder("state folder", folder_of(tmp_path / "s", owner, mode))
    assert "0700" in error.value.hint


@pytest.mark.parametrize(
    ("uid", "owner", "mode", "reason"),
    [
        (0, OTHER, 0o755, "belongs to the user 1234; other users can replace"),
        (ME, 0, 0o1777, "every user may write to it; other users can replace"),
        (ME, ME, 0o775, "the group 1234, to which the exporter does not belong"),
    ],
    ids=["folder of the host in a container", "tmpfs or emptyDir", "group of others"],
)
def test_folder_that_is_usual_in_containers_is_a_warning(uid, owner, mode, reason, tmp_path, user):
    user(uid)
    assert reason in check_folder("state folder", folder_of(tmp_path / "s", owner, mode, OTHER))


@pytest.mark.parametrize(
    ("owner", "group", "mode"), [(ME, ME, 0o700), (ME, ME, 0o775), (0, ME, 0o2770), (ME, OTHER, 0o750)]
)
def test_folder_of_the_user_or_of_root_is_accepted(owner, group, mode, tmp_path, user):
    """Also with the rights of a private group (umask 002), or of the group of a container with any user."""
    user(ME)
    assert not check_folder("state folder", folder_of(tmp_path / "s", owner, mode, group))
    assert not check_folder("state folder", tmp_path / "missing")


def test_link_is_accepted_only_from_the_user_or_root(tmp_path, user):
    """With DynamicUser, systemd makes a link of root to the state folder."""
    user(ME)
    target, link = folder_of(tmp_path / "private", ME, 0o700), tmp_path / "s"
    link.symlink_to(target)
    assert not check_folder("state folder", link)
    os.chown(link, OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(ConfigError, match="a link of the user 1234"):
        check_folder("state folder", link)


def test_share_that_maps_users_and_has_no_modes_is_accepted(tmp_path, user, monkeypatch):
    """New files belong to the owner of the folder, and all users may write to them, whoever creates them."""
    user(ME)
    folder, fstat = folder_of(tmp_path / "s", OTHER, 0o777), os.fstat

    def mapped(fd):
        fields = list(fstat(fd))
        fields[0], fields[4] = fields[0] | 0o777, OTHER
        return os.stat_result(fields)

    with pytest.raises(ConfigError):
        check_folder("state folder", folder)
    monkeypatch.setattr(os, "fstat", mapped)
    assert "not safe" not in check_folder("state folder", folder)


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder", "file of another user"])
def test_open_private_refuses_what_another_user_may_have_prepared(kind, tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "lock"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "file of another user":
        path.touch()
        os.chown(path, OTHER, OTHER)
    else:
        path.symlink_to(victim)
        if kind == "link":
            victim.touch()
    with pytest.raises(OSError, match=r"lock is a symbolic link|directory|not a regular file|belongs to the user 1234"):
        open_private(path)
    assert victim.exists() == (kind == "link")


def test_open_private_creates_a_file_for_the_user_only(tmp_path):
    """A file to which all users may write loses this right; its group keeps what it has."""
    path = tmp_path / "lock"
    os.close(open_private(path))
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    os.close(open_private(path))
    assert path.stat().st_mode & 0o777 == 0o664
