"""The folder destination keeps the contract of a destination."""

import pytest

from aluma_async import FolderDestination
from aluma_async.testing import check_destination, check_memory
from tests.support.clock import real_time
from tests.support.folders import exported_files, open_folder, staged_files


@pytest.mark.parametrize("durability", ["full", "rename"])
@real_time
async def test_folder_keeps_the_contract_of_a_destination(tmp_path, durability):
    opened = []

    def open_destination():
        opened.append(FolderDestination(tmp_path, durability=durability))
        return opened[-1]

    await check_destination(open_destination, lambda: exported_files(tmp_path).values())
    for destination in opened:
        destination.close()
    assert not staged_files(tmp_path)


@real_time
async def test_folder_delivers_a_large_file_in_little_memory(tmp_path):
    async with open_folder(tmp_path) as destination:
        await check_memory(destination)
