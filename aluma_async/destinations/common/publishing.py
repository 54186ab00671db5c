"""The order in which the files of a task are published on a server: all files, then the manifest, or nothing.

Used by destinations without transactions. The caller supplies the steps; this module fixes their order, and rolls
back if one of them fails or is cancelled.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

import anyio

from aluma_async.destinations.common.manifest import StoredFile, manifest_file, render_manifest
from aluma_async.destinations.common.spool import Spool, SpooledFile
from aluma_async.exceptions import primary_error
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import PathParts, collision_key, plan_paths

_AT_ONCE = 32
"""Files of a task that are processed at once. A destination has further limits for all tasks together."""
Item = TypeVar("Item")
StageFiles: TypeAlias = Callable[[Sequence[tuple[ExportFile, SpooledFile]]], Awaitable[None]]
"""Copies files to the server under temporary names."""
PublishFile: TypeAlias = Callable[[ExportFile, PathParts, SpooledFile], Awaitable[str]]
"""Publishes a file at its planned path or at another one, if that is taken, and returns the path for the manifest."""
VerifyFile: TypeAlias = Callable[[ExportFile, str, SpooledFile], Awaitable[None]]
"""Compares a file with what is stored at the path that ``PublishFile`` returned."""
RollBack: TypeAlias = Callable[[], Awaitable[None]]
"""Removes all files that are new. Called shielded from cancellation; MUST NOT raise if the server is away."""


async def for_each(items: Sequence[Item], function: Callable[[Item], Awaitable[None]]) -> None:
    """Call a function for each item, for several at once; a task may have thousands of files."""
    rest = iter(items)

    async def work() -> None:
        for item in rest:
            await function(item)

    async with anyio.create_task_group() as group:
        for _ in range(min(_AT_ONCE, len(items))):
            group.start_soon(work)


async def publish_task(
    claim: Claim,
    spool: Spool,
    *,
    stage: StageFiles | None = None,
    publish: PublishFile,
    verify: VerifyFile | None = None,
    roll_back: RollBack,
    now: Callable[[], float] | None = None,
    key_of: Callable[[PathParts], str] = collision_key,
) -> None:
    """Publish all files of a claim; of several errors, raise the primary one, unwrapped.

    Args:
        claim: the claim whose files were saved.
        spool: contains the saved files.
        stage: called before ``publish``, with all files at once and then with the manifest. None: files are not staged.
        publish: called for all files, several at once, and last for the manifest.
        verify: called for all files when they are published, and then for the manifest. None: files are not verified.
        roll_back: called if a step fails or is cancelled.
        now: time of the export in seconds since 1970, for the manifest. None: publish no manifest.
        key_of: returns equal keys for paths that must not occur twice.
    """
    files, manifest = claim.spec.files, manifest_file(claim)
    # Without a manifest, its folder is not reserved.
    planned = plan_paths(files, key_of, own=manifest) if now else plan_paths((*files, manifest), key_of)
    *paths, manifest_path = planned.values()
    published: dict[int, str] = {}

    async def publish_file(planned: tuple[ExportFile, PathParts]) -> None:
        file, path = planned
        published[file.number] = await publish(file, path, spool[file])

    try:
        if stage:
            await stage([(file, spool[file]) for file in files])
        await for_each(list(zip(files, paths, strict=True)), publish_file)
        if verify:
            await for_each(files, lambda file: verify(file, published[file.number], spool[file]))
        if now:
            stored = [StoredFile(file, published[file.number], spool[file].size, spool[file].sha256) for file in files]
            data = SpooledFile.from_bytes(render_manifest(claim, stored, now()))
            if stage:
                await stage([(manifest, data)])
            path = await publish(manifest, manifest_path, data)
            if verify:
                await verify(manifest, path, data)
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await roll_back()
        if isinstance(error, BaseExceptionGroup):
            raise primary_error(error) from None
        raise
