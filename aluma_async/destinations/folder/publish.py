"""Publish the staged files of a batch of tasks. All of it blocks, and runs in one thread hop for the whole batch.

Each step is done for all tasks before the next one begins:

1. Write the small files from memory to the staging folder.
2. fsync them. Large files were made durable when they were saved.
3. Plan the paths of all files.
4. Reserve owners: in one transaction, assign each file a path that belongs to no other task.
5. Rename the files to their final paths. If one cannot be renamed, roll back those of its task.
6. fsync the folders whose entries changed.
7. Write the manifests, with fsync and rename, and fsync their folder. They come last, because a manifest promises that
   the files it lists exist and are durable.

So a final name never refers to incomplete content. A crash between two renames leaves some files of a task under their
final names; the next attempt replaces them.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

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
            elif number not in staged.inodes:
                raise DestinationError(f"task {staged.claim.task.id}: file {number} was never saved")

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
        self._planned = plan_paths(self._files)
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
        done: list[Placement] = []
        try:
            for index in range(len(self.staged.files)):
                done.append(self._rename(folders, index, self.staged.inodes[self._placements[index].number]))
                folders.close_if_many()
        except (OSError, DestinationError):
            _roll_back(folders, done)
            raise

    def write_manifest(self, folders: OpenFolders) -> None:
        """Write and rename the manifest. If that fails, roll back the other files."""
        staged = self.staged
        *placements, last = self._placements
        if not (last.new or staged.claim.may_replace):
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
                inode = fs.fsync_checked(fd, len(content), sync=sync)
            finally:
                os.close(fd)
            self._rename(folders, len(placements), inode)
            staged.sizes[last.number] = len(content)
        except (OSError, DestinationError):
            _roll_back(folders, placements)
            raise

    def _rename(self, folders: OpenFolders, index: int, inode: int) -> Placement:
        """Rename a file; if another one has taken its path since that was assigned, assign another path."""
        for _ in range(_MAX_RENAMES):
            placement = self._placements[index]
            _, staged, parts, new = placement
            try:
                folders.apply_permissions(staged, parts[:-1])
                fs.move(folders.staging, staged, folders.open(parts[:-1]), parts[-1], inode=inode, new=new)
            except FileExistsError:
                if not (new and self._paths):
                    raise
                key, planned = list(self._planned.items())[index]
                self._placements[index] = self._paths.assign_again(self._files[index], key, planned, placement)
            else:
                folders.mark_changed(parts[:-1])
                return placement
        raise DestinationError(f"task {self.staged.claim.task.id}: file {index}: its names are taken again and again")

    def issue_receipt(self, folder_id: str) -> None:
        """Issue the receipt of the published files, if the folder has an identifier."""
        staged, settings = self.staged, self.staged.settings
        if folder_id:
            files = [("/".join(placement.parts), staged.sizes[placement.number]) for placement in self._placements]
            staged.receipt = Receipt.issue(folder_id, files, "" if settings.sync else settings.boot)


def _roll_back(folders: OpenFolders, placements: Iterable[Placement]) -> None:
    """Remove the renamed files that did not exist before; those that were replaced keep their new content."""
    for placement in placements:
        if placement.new:
            fs.unlink(folders.open(placement.parts[:-1]), placement.parts[-1])
