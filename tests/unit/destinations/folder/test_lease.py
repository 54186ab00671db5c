"""A delivery whose lease ends while it is published: another exporter may have delivered a newer version since."""

import asyncio
import json
from contextlib import suppress

import pytest

from aluma_async import FolderDestination
from aluma_async.exceptions import DestinationError
from aluma_async.ports import CHECK_LEASE
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files, open_folder, staged_files

OLD, NEW = ("a", "x/b", "gone"), ("a", "x/b", "more")


class Lease:
    """A lease that ends directly after a number of checks, when ``action`` runs."""

    def __init__(self, checks, action):
        self.checks = checks
        self.is_valid = True
        self._action = action

    def check(self):
        if not self.is_valid:
            raise DestinationError("the lease may have expired")
        self.checks -= 1
        if not self.checks:
            self.is_valid = False
            self._action()


async def deliver_version(root, names, version, check=lambda: None):
    """Deliver a version of task "t", as an exporter of its own."""
    destination = FolderDestination(root, manifest=True)
    token = CHECK_LEASE.set(check)
    try:
        await destination.probe()
        await deliver(destination, claim_of("t", *names), *[f"{version} {name}".encode() for name in names])
    finally:
        destination.close()
        CHECK_LEASE.reset(token)


@pytest.mark.parametrize("existing", [(), ("a",), OLD], ids=["no", "one", "all"])
@real_time
async def test_newer_version_stays_whenever_the_lease_ends(existing, tmp_path):
    """Also directly after a check. The delivery fails, and only its own files are removed."""
    for checks in range(1, 100):
        root = tmp_path / str(checks)
        if existing:
            await deliver_version(root, existing, "earlier")

        def deliver_newer(root=root):
            asyncio.run(deliver_version(root, NEW, "newer"))

        lease = Lease(checks, deliver_newer)
        with suppress(DestinationError):
            await deliver_version(root, OLD, "older", lease.check)
            assert lease.is_valid
            break
        assert not staged_files(root)
        files = exported_files(root)
        manifest = json.loads(files.pop("manifests/t.json"))
        assert {file["path"] for file in manifest["files"]} == set(NEW)
        kept = {name: f"earlier {name}".encode() for name in existing if name not in NEW}
        if (root / "gone").exists() and kept:
            kept["gone"] = files["gone"]  # a file that existed before may have its new content
        assert files == {name: f"newer {name}".encode() for name in NEW} | kept
        await deliver_version(root, NEW, "newest")
        assert set(exported_files(root)) == {*files, "manifests/t.json"}, "the files still belong to the task"
    assert checks == 2 + len(OLD) + 1, "before the owners, before each rename, and not after the last one"


@real_time
async def test_own_file_that_changed_after_its_assignment_is_replaced(tmp_path, before_disk_step):
    """While the lease is valid, it belongs to the task."""
    async with open_folder(tmp_path) as destination:
        claim = claim_of("t", "first", "changed", "removed")
        await deliver(destination, claim, b"1", b"1", b"1")

        def change():
            (tmp_path / "changed").write_bytes(b"by another program")
            (tmp_path / "removed").unlink()

        before_disk_step("os.rename", 1, change)
        await deliver(destination, claim, b"2", b"2", b"2")
        assert exported_files(tmp_path) == {"first": b"2", "changed": b"2", "removed": b"2"}


@real_time
async def test_roll_back_keeps_a_file_that_was_replaced_meanwhile(destination, before_disk_step):
    root = destination.root
    await deliver(destination, claim_of("t", "blocked"), b"1")

    def replace():
        (root / "replaced").unlink()
        (root / "replaced").write_bytes(b"by another program")
        (root / "blocked").unlink()
        (root / "blocked").mkdir()

    before_disk_step("os.rename", 3, replace)
    with pytest.raises(DestinationError, match="directory"):
        await deliver(destination, claim_of("t", "replaced", "own", "blocked"), b"2", b"3", b"4")
    assert exported_files(root) == {"replaced": b"by another program"}
