"""A task, its files and their bytes, for tests of routes and destinations."""

from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask

TASK = ExportTask("t1", project_id="p1", project_name="Invoices")


def make_file(number=0, folder="out", filename="a.csv", source="content"):
    """Return a file of ``TASK``."""
    return ExportFile(number, 0, folder, filename, source, content="x")


async def chunks(*parts):
    """Yield the parts; raise a part that is an exception."""
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part


def make_claim(task_id, *paths, project="p1"):
    """Return a claim with one file for each path: a folder and a filename, or a filename in the folder ``in``."""
    pairs = (path if isinstance(path, tuple) else ("in", path) for path in paths)
    files = tuple(ExportFile(i, i // 2, *pair, "url", url="/f") for i, pair in enumerate(pairs))
    return Claim(ExportTask(task_id, "a name", project, "Invoices"), ExportSpec(files), 0.0)


async def deliver(destination, claim, *contents):
    """Save a content, bytes or text, for each file of the claim, and commit."""
    async with destination.open(claim) as delivery:
        for file, content in zip(claim.spec.files, contents, strict=True):
            await delivery.save(file, chunks(content if isinstance(content, bytes) else content.encode()))
