"""Locations in the file system: two spellings of one folder are recognized, and different folders are not mixed up."""

from pathlib import Path

import pytest

from aluma_async.destinations.common.locations import Location, Mount, Relation, locate, read_mounts, relate


def related(one, other, mounts=()):
    relation = relate(locate(Path(one), mounts), locate(Path(other), mounts))
    assert relate(locate(Path(other), mounts), locate(Path(one), mounts)) == (relation and relation.inverse)
    return relation


@pytest.mark.parametrize(
    ("one", "other", "relation"),
    [
        ("a", "a", Relation.SAME),
        ("a", "a/../a/.", Relation.SAME),
        ("a", "a/b", Relation.CONTAINS),
        ("a/b/c", "a", Relation.INSIDE),
        ("a", "ab", None),
        ("a/b", "a/c", None),
        ("new", "new/deeper", Relation.CONTAINS),  # neither of them exists
        ("new/one", "new/two", None),
        ("a/new", "a/new", Relation.SAME),
        ("a", "a/b/new", Relation.CONTAINS),
        ("a/new", "a/b", None),
        ("new", "NEW", Relation.SAME),  # the file system may ignore case, and nothing shows yet whether it does
        ("b\u0308", "\u1e07\u0308", None),
        ("u\u0308", "\u00fc", Relation.SAME),
        ("link", "a", Relation.SAME),
        ("link/b", "a", Relation.INSIDE),
        ("dangling", "new", Relation.SAME),
        ("dangling/deeper", "new", Relation.INSIDE),
        ("loop", "a", None),
        (".", "/", Relation.INSIDE),
    ],
)
def test_relation_of_two_paths(one, other, relation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a/b").mkdir(parents=True)
    Path("link").symlink_to("a")
    Path("dangling").symlink_to("new")
    Path("loop").symlink_to("loop")
    assert related(one, other) == relation
    assert related(tmp_path / one, other) == relation


def test_existing_folders_that_differ_in_case_are_different(tmp_path):
    """The file system then distinguishes case."""
    for name in ("out", "OUT"):
        (tmp_path / name).mkdir(exist_ok=True)
    same = (tmp_path / "out").samefile(tmp_path / "OUT")
    assert related(tmp_path / "out", tmp_path / "OUT") == (Relation.SAME if same else None)


def test_folder_that_is_mounted_twice_is_recognized_by_its_inode():
    """A bind mount has the device and inode of the folder that is mounted."""
    data, mounted = Location(((1, 2), (1, 9)), ()), Location(((1, 2), (1, 5), (1, 9)), ("x",))
    assert relate(data, mounted) is Relation.CONTAINS
    assert relate(Location(((1, 2), (1, 9)), ("x",)), mounted) is Relation.SAME
    assert relate(Location(((1, 2), (1, 9)), ("y",)), mounted) is None


TABLE = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:30 / /dev rw - devtmpfs none rw
31 22 8:1 /srv/data/inner\\040folder /mnt/inner rw - ext4 /dev/sda1 rw
32 22 8:2 / /srv/disk rw - ext4 /dev/sdb1 rw
"""


def test_part_of_a_folder_that_is_mounted_elsewhere_is_recognized(tmp_path):
    """The table of mounts names the part of the file system at each mount point."""
    (tmp_path / "mountinfo").write_text(TABLE)
    mounts = read_mounts(tmp_path / "mountinfo")
    assert mounts[2] == Mount("8:1", ("/", "srv", "data", "inner folder"), ("/", "mnt", "inner"), "ext4")
    assert related("/srv/data", "/mnt/inner", mounts) is Relation.CONTAINS
    assert related("/srv/data/inner folder/x", "/mnt/inner/x/y", mounts) is Relation.CONTAINS
    assert related("/srv/data/other", "/mnt/inner", mounts) is None
    assert related("/srv/disk/x", "/srv/data", mounts) is None
    assert related("/srv", "/srv/disk", mounts) is Relation.CONTAINS  # by their paths
    assert read_mounts(tmp_path / "missing") == []
