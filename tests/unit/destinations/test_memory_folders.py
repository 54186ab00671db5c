"""Folders on a file system in memory are found by the kernel's table of mounts, and reported once."""

from aluma_async.config import Config, FolderConfig
from aluma_async.config.destinations import SqlConfig
from aluma_async.config.sections import ExporterConfig
from aluma_async.destinations.common.locations import file_system_of, read_mounts
from aluma_async.destinations.memory_folders import memory_warnings

TABLE = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:30 / {0}/memory rw,nosuid shared:5 master:1 - tmpfs tmpfs rw
31 22 0:31 / {0}/memory/disk rw shared:6 - xfs /dev/sdb1 rw
32 22 0:32 / {0}/disk rw - tmpfs tmpfs rw
33 22 8:3 / {0}/disk rw - ext4 /dev/sdc1 rw
34 22 0:33 / {0}/ram rw - ramfs ramfs rw
35 22 0:34 / {0}/odd rw
"""


def mounts_of(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text(TABLE.format(tmp_path))
    return read_mounts(table)


def test_file_system_is_that_of_the_nearest_mount(tmp_path):
    """The last of several mounts at one folder counts. The path need not exist, and may lead through a link."""
    mounts = mounts_of(tmp_path)
    (tmp_path / "link").symlink_to("memory")
    for name, expected in {
        "memory": "tmpfs",
        "memory/a/b": "tmpfs",
        "memories": "ext4",
        "memory/disk/a": "xfs",
        "disk": "ext4",
        "ram/x": "ramfs",
        "link/a": "tmpfs",
        "odd": "",
    }.items():
        assert file_system_of(tmp_path / name, mounts) == expected, name
    assert file_system_of(tmp_path, ()) == ""


def test_memory_warnings_name_each_folder_and_file_once(tmp_path):
    config = Config(
        exporter=ExporterConfig(state=tmp_path / "ram/state"),
        destinations={
            "default": FolderConfig(path=tmp_path / "memory/out"),
            "rows": SqlConfig(url=f"sqlite:///{tmp_path}/memory/a.db", table="t"),
            "safe": FolderConfig(path=tmp_path / "memory/disk/out"),
        },
    )
    warnings = memory_warnings(config, mounts_of(tmp_path))
    assert [warning.partition(":")[0] for warning in warnings] == [
        f"state folder {tmp_path}/ram/state",
        f"destination default {tmp_path}/memory/out",
        f"destination rows {tmp_path}/memory/a.db",
    ]
    assert "ramfs" in warnings[0]
    assert all("when the machine stops; use a folder on a disk" in warning for warning in warnings)


def test_memory_warnings_are_empty_without_a_table_of_mounts(tmp_path):
    config = Config(exporter=ExporterConfig(state=tmp_path), destinations={"default": FolderConfig(path=tmp_path)})
    assert memory_warnings(config, read_mounts(tmp_path / "missing")) == []
