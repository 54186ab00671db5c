"""A folder that several processes begin to use at the same moment."""

import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from aluma_async.destinations.folder.owners import Owners
from aluma_async.destinations.folder.root import RootFolder

PROCESSES, FOLDERS = 6, 20


def test_processes_that_start_together_agree_on_the_marker(tmp_path, monkeypatch):
    """Otherwise all but one would take the folder for another one in its place, and stop."""
    choose = secrets.token_hex

    def choose_slowly(size):
        time.sleep(0.05)  # so that each has found the marker without an identifier before one writes it
        return choose(size)

    monkeypatch.setattr(secrets, "token_hex", choose_slowly)

    def use(root, barrier):
        barrier.wait()
        root.ensure()
        barrier.wait()
        with root.open(sync=False) as folders:
            return folders.identifier

    barrier = threading.Barrier(PROCESSES)
    roots = [RootFolder(tmp_path / "out") for _ in range(PROCESSES)]  # each knows what one process knows
    with ThreadPoolExecutor(PROCESSES) as threads:
        assert len(set(threads.map(use, roots, [barrier] * PROCESSES))) == 1


def test_processes_that_start_together_share_the_index_of_owners(tmp_path):
    """None finds it locked while another one creates it."""

    def use(number, path, barrier):
        owners = Owners(path)
        barrier.wait()
        with owners.transaction():
            owners.assign(f"key-{number}", "task")
        owners.close()

    with ThreadPoolExecutor(PROCESSES) as threads:
        for number in range(FOLDERS):
            path, barrier = tmp_path / f"{number}.sqlite3", threading.Barrier(PROCESSES)
            list(threads.map(use, range(PROCESSES), [path] * PROCESSES, [barrier] * PROCESSES))
            owners = Owners(path)
            with owners.transaction():
                assert all(owners.owner_of(f"key-{one}") == "task" for one in range(PROCESSES))
            owners.close()
