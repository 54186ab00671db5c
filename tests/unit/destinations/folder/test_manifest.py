"""The manifest of a task in a folder."""

import hashlib
import json
import os
from contextlib import contextmanager

import anyio
import pytest

from aluma_async.destinations.folder.root import RootFolder
from aluma_async.exceptions import DestinationError
from tests.support.clock import real_time
from tests.support.folders import Download, claim_of, deliver, exported_files, open_folder, yielding_chunks


@real_time
async def test_manifest_lists_large_and_resumed_files(tmp_path):
    contents = [bytes(3_000_000), b"\r\n" * 1_000_000, b"small"]
    claim = claim_of("t", "a.bin", "b.bin", "c.txt")
    async with open_folder(tmp_path, manifest=True) as destination:
        with anyio.CancelScope() as scope:
            async with destination.open(claim) as delivery:
                await delivery.save(claim.spec.files[0], Download(contents[0]))
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        async with destination.open(claim) as delivery:
            assert delivery.resumable_size(claim.spec.files[0]) == len(contents[0])
            for file, content in zip(claim.spec.files[1:], contents[1:], strict=True):
                await delivery.save(file, yielding_chunks(b"replaced by the next save", content))
                await delivery.save(file, yielding_chunks(content[:2_000_000], content[2_000_000:]))
    listed = json.loads((tmp_path / "manifests" / "t.json").read_bytes())["files"]
    assert [file["size"] for file in listed] == [len(content) for content in contents]
    assert [file["sha256"] for file in listed] == [hashlib.sha256(content).hexdigest() for content in contents]


@real_time
async def test_task_is_rolled_back_when_its_manifest_cannot_be_written(tmp_path):
    """Its path is assigned with those of the other files; then something else takes it."""
    root = tmp_path / "out"

    def take_path():
        (root / "manifests" / "t.json" / "in the way").mkdir(parents=True)
        return 0.0

    async with open_folder(root, manifest=True, on_conflict="fail", now=take_path) as destination:
        with pytest.raises(DestinationError):
            await deliver(destination, claim_of("t", "in/a.txt"), b"data")
    assert not exported_files(root)
    assert not list((root / ".aluma-async").rglob("*.part"))


@real_time
async def test_manifest_gets_another_path_when_its_own_is_taken(tmp_path, monkeypatch):
    """It is assigned in the folders that are open now: numbers of closed descriptors may be another folder's."""
    root, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    descriptors, open_root = [], RootFolder.open

    @contextmanager
    def open_with_other_numbers(self, **options):
        descriptors.extend(os.open(other, os.O_RDONLY) for _ in range(3))
        with open_root(self, **options) as folders:
            yield folders

    def take_path():
        (root / "manifests" / "t.json" / "in the way").mkdir(parents=True)
        return 0.0

    async with open_folder(root, manifest=True, now=take_path) as destination:
        monkeypatch.setattr(RootFolder, "open", open_with_other_numbers)
        await deliver(destination, claim_of("t", "a"), b"data")
    for descriptor in descriptors:
        os.close(descriptor)
    assert len(exported_files(root)) == 2
    assert not list(other.iterdir())
