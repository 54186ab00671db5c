"""A task, its files and their bytes, for tests of routes and destinations."""

from aluma_async.models import ExportFile, ExportTask

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
