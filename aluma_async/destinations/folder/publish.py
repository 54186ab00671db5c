"""Publish the staged files of a batch of tasks. All of it blocks, and runs in one thread hop for the whole batch.

Each step is done for all tasks before the next one begins:

1. Write the small files from memory to the staging folder.
2. fsync them. Large files were made durable when they were saved.
3. Plan the paths of all files.
4. Reserve owners: in one transaction, assign each file a path that belongs to no other task.
5. Rename the files to their final paths. If one cannot be renamed, roll back those of its task. A rename replaces only
   what had the path in step 4, and a roll-back removes only what this delivery has renamed.
6. fsync the folders whose entries changed.
7. Write the manifests, with fsync and rename, and fsync their folder. They come last, because a manifest promises that
   the files it lists exist and are durable.

So a final name never refers to incomplete content. A crash between two renames leaves some files of a task under their
final names; the next attempt replaces them.

The lease is checked before step 4 and before each rename: after a suspension, another exporter may have delivered a
newer version of the task, whose files stay.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from aluma_async.destinations.common.manifest import StoredFile, manifest_file, render_manifest
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.open_folders import OpenFolders
from aluma_async.destinations.folder.placement import PathAllocator, Placement
from aluma_async.destinations.folder.receipt import Receipt
from aluma_async.destinations.folder.staging import FolderSettings, StagedTask
from aluma_async.exceptions import DestinationError
from aluma_async.models import ExportFile
from aluma_async.policy.naming import MAX_NAME_BYTES, PathParts, collision_key, fit_names, plan_paths

_MAX_RENAMES = 10
"""Paths to try for a file. More than two are rarely needed, even if another program creates files."""
_MAX_OPEN_FILES = 16
"""Small files of one task that are written before they are synced."""


def publish(settings: FolderSettings, tasks: Sequence[StagedTask], errors: dict[StagedTask, Exception]) -> None:
    """Publish all tasks of a batch. Raises nothing.

    An error in one task fails only that task; an error in a shared step (opening the root folder, the owners
    transaction) fails the whole batch.

    Args:
        settings: Where the files go, and how.
        tasks: The tasks of the batch.
        errors: An entry for each task. It is removed when the task is published, and is otherwise set to the error.
    """
    batch = [_Publication(task) for task in tasks]
    try:
        with settings.root.open(sync=settings.sync) as folders:
            _for_each(batch, lambda task: task.write(folders))
            _for_each(batch, _Publication.fsync_all)
            keys = [key for task in batch for key in task.plan_paths(folders.max_name_bytes)]
            _for_each(batch, _Publication.check_lease)
            with settings.owners.transaction(keys):
                _for_each(batch, lambda task: task.assign_paths(folders))
            _for_each(batch, lambda task: task.rename_all(folders))
        if settings.manifest:
            with settings.root.open(sync=settings.sync) as folders:
                _for_each(batch, lambda task: task.write_manifest(folders))
    except Exception as error:  # noqa: BLE001 - raised to the caller of each task
        for task in batch:
            task.error = task.error or error
    for task in batch:
        task.close()
        if task.error:
            errors[task.staged] = task.error
        else:
            task.issue_receipt(folders.identifier)
            del errors[task.staged]


def _for_each(batch: Sequence["_Publication"], step: Callable[["_Publication"], None]) -> None:
    """Do a step for each task that has not failed in an earlier step."""
    for task in batch:
        if not task.error:
            try:
                step(task)
            except (OSError, DestinationError) as error:
                task.error = error


class _Publication:
    """One task of the batch; its methods are the steps, in order."""

    def __init__(self, staged: StagedTask) -> None:
        self.staged = staged
        self.error: Exception | None = None
        self._open: dict[int, int] = {}  # descriptors of files that are written and not yet durable
        self._files: Sequence[ExportFile] = ()  # including the manifest
        self._planned: Mapping[str, PathParts] = {}
        self._paths: PathAllocator | None = None
        self._placements: list[Placement] = []

    def write(self, folders: OpenFolders) -> None:
        """Write the files that are in memory."""
        staged, sync = self.staged, self.staged.settings.sync
        for file in staged.files:
            number = file.number
            if (data := staged.in_memory.get(number)) is not None:
                staged.on_disk.add(number)
                self._open[number] = fs.write_file(folders.staging, staged.staged_name(number), data, sync=sync)
                if len(self._open) >= _MAX_OPEN_FILES:
                    self.fsync_all()
            elif number not in staged.ids:
                raise DestinationError(f"task {staged.claim.task.id}: file {number} was never saved")

    def check_lease(self) -> None:
        """Raise ``DestinationError`` if another exporter may have claimed the task."""
        self.staged.check_lease()

    def fsync_all(self) -> None:
        """Make the written files durable and close them."""
        for number, fd in self._open.items():
            self.staged.finish(number, fd, len(self.staged.in_memory[number]))
        self.close()

    def close(self) -> None:
        """Close the written files, durable or not."""
        while self._open:
            os.close(self._open.popitem()[1])

    def plan_paths(self, max_name_bytes: int) -> Iterable[str]:
        """Plan a path for each file; return the collision keys of these paths."""
        claim = self.staged.claim
        files = self.staged.files
        self._files = (*files, manifest_file(claim)) if self.staged.settings.manifest else files
        self._planned = plan_paths(files, own=manifest_file(claim) if self.staged.settings.manifest else None)
        if max_name_bytes < MAX_NAME_BYTES:
            fitting = [fit_names(parts, max_name_bytes) for parts in self._planned.values()]
            self._planned = {collision_key(parts): parts for parts in fitting}
        return self._planned

    def assign_paths(self, folders: OpenFolders) -> None:
        """Assign each file a path and reserve it for this task."""
        staged = self.staged
        owners, on_conflict, claim = staged.settings.owners, staged.settings.on_conflict, staged.claim
        self._paths = PathAllocator(folders, owners, on_conflict, claim.task.id, may_replace=claim.may_replace)
        self._placements = self._paths.assign(self._files, self._planned, staged.staged_name)

    def rename_all(self, folders: OpenFolders) -> None:
        """Rename all files except the manifest, or none."""
        renamed = 0
        try:
            for index in range(len(self.staged.files)):
                self._rename(folders, index)
                renamed += 1
                folders.close_if_many()
        except (OSError, DestinationError):
            self._roll_back(folders, renamed)
            raise

    def write_manifest(self, folders: OpenFolders) -> None:
        """Write and rename the manifest. If that fails, roll back the other files."""
        staged = self.staged
        if self._paths:
            self._paths.folders = folders  # those of the earlier steps are closed
        *placements, last = self._placements
        if not (last.existing is None or staged.claim.may_replace):
            self._placements = placements
            return
        stored = []
        for file, placement in zip(staged.files, placements, strict=True):
            data = staged.in_memory.get(file.number)
            digest = staged.hashes[file.number] if data is None else hashlib.sha256(data)
            stored.append(StoredFile(file, "/".join(placement.parts), staged.sizes[file.number], digest.hexdigest()))
        content = render_manifest(staged.claim, stored, staged.settings.now())
        sync = staged.settings.sync
        try:
            staged.on_disk.add(last.number)
            fd = fs.write_file(folders.staging, last.staged, content, sync=sync)
            try:
                staged.finish(last.number, fd, len(content))
            finally:
                os.close(fd)
            self._rename(folders, len(placements))
        except (OSError, DestinationError):
            self._roll_back(folders, len(placements))
            raise

    def _rename(self, folders: OpenFolders, index: int) -> None:
        """Rename a file; if its path has changed since it was assigned, assign it again or assign another one."""
        for _ in range(_MAX_RENAMES):
            placement = self._placements[index]
            number, staged, parts, existing = placement
            try:
                folders.apply_permissions(staged, parts[:-1])
                moved, folder = self.staged.ids[number], folders.open(parts[:-1])
                self.staged.check_lease()  # directly before the rename, because each operation may hang for long
                fs.move(folders.staging, staged, folder, parts[-1], moved=moved, replaced=existing)
            except FileExistsError:
                if not self._paths:
                    raise
                self.staged.check_lease()  # another exporter may have renamed its file after the first check
                key, planned = list(self._planned.items())[index]
                self._placements[index] = self._paths.assign_again(self._files[index], key, planned, placement)
            else:
                folders.mark_changed(parts[:-1])
                return
        raise DestinationError(f"task {self.staged.claim.task.id}: file {index}: its names are taken again and again")

    def issue_receipt(self, folder_id: str) -> None:
        """Issue the receipt of the published files, if the folder has an identifier."""
        staged, settings = self.staged, self.staged.settings
        if folder_id:
            files = [("/".join(placement.parts), staged.sizes[placement.number]) for placement in self._placements]
            staged.receipt = Receipt.issue(folder_id, files, "" if settings.sync else settings.boot)

    def _roll_back(self, folders: OpenFolders, renamed: int) -> None:
        """Remove the renamed files that did not exist before, and end the reservations of their paths.

        Those that were replaced keep their new content. A file that another exporter has replaced meanwhile stays,
        because its task may be completed.
        """
        for number, _, parts, existing in self._placements[:renamed]:
            if existing is None:
                fs.unlink_if_same(folders.open(parts[:-1]), parts[-1], self.staged.ids[number])
        if self._paths:
            new = [placement.parts for placement in self._placements if placement.existing is None]
            with suppress(OSError, DestinationError):  # the error for which the files are removed counts
                self._paths.release([parts for parts in new if not fs.lstat(folders.open(parts[:-1]), parts[-1])])
