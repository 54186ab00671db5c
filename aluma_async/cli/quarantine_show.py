"""``quarantine show``: prints the record of a copy and checks each of its files. An exporter may run meanwhile."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from aluma_async.cli.copies import complete_task_ids, copy_row, iso_time, read_copies, selected_copies
from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.options import add_options, load_config, merge_options
from aluma_async.cli.output import ignore_closed_pipe, print_json
from aluma_async.quarantine.folder import Copy, QuarantineFolder
from aluma_async.quarantine.records import SPEC_NUMBER, CopyState
from aluma_async.service.formatting import format_bytes, pluralize, sanitize

_STATES = {
    CopyState.FAILED: "failed: Aluma has deleted the task",
    CopyState.PARKED: "parked: Aluma keeps the task until its project's deadline",
}


@click.command()
@click.argument("task_id", shell_complete=complete_task_ids)
@click.option("--json", "as_json", is_flag=True, help="JSON output: an object.")
@add_options("config", "state", "traceback")
@click.pass_context
def show(context: click.Context, /, *, task_id: str, as_json: bool, **inner: Any) -> int:
    """Show a copy, and check each of its files.

    Reads every file and compares it with the size and the hash that were recorded. The exit code is 1 if something is
    missing or has changed. Put "--" before an id that starts with a dash.
    """
    config = load_config(merge_options(context.obj, inner))
    copies = read_copies(config)
    for copy in selected_copies(copies.best, [task_id]):
        problems = QuarantineFolder(config.quarantine_folder()).verify(copy)
        with ignore_closed_pipe():
            if as_json:
                print_json(_json(copy, problems))
            else:
                for line in _lines(copy, problems):
                    click.echo(sanitize(line, 1000))
        return INCOMPLETE if problems or copies.may_have_another(task_id) else OK
    return INCOMPLETE


def _json(copy: Copy, problems: Mapping[int, str]) -> dict[str, object]:
    files = [
        {
            "number": file.number,
            "folder": file.folder,
            "filename": file.filename,
            "path": file.path,
            "size": file.size,
            "problem": problems.get(file.number, ""),
        }
        for file in copy.record.files
    ]
    return {
        **copy_row(copy),
        "complete": not problems,
        "missing": len(problems),
        "name": copy.record.task.name,
        "project": copy.record.task.project_name or copy.record.task.project_id,
        "specification_problem": problems.get(SPEC_NUMBER, ""),
        "files": files,
    }


def _lines(copy: Copy, problems: Mapping[int, str]) -> Iterator[str]:
    record = copy.record
    task = record.task
    yield f"task         {copy.task_id}  {task.name}"
    yield f"project      {task.project_name or task.project_id}"
    yield f"state        {_STATES[record.state]}"
    yield f"error        {record.error}: {record.message}"
    yield f"created      {iso_time(task.created_at) or '?'}"
    yield f"stored       {iso_time(record.stored_at or None) or '?'}"
    yield f"redelivered  {iso_time(record.redelivered_at) or 'never'}"
    yield f"folder       {copy.folder}"
    files = f"{pluralize(len(record.files), 'file')}, {format_bytes(copy.size)}"
    yield f"content      {files}, {f'{len(problems)} missing or changed' if problems else 'complete'}"
    if reason := problems.get(SPEC_NUMBER):
        yield f"             specification: {reason}"
    for file in record.files:
        size = "" if file.size is None else format_bytes(file.size)
        state = problems.get(file.number) or size or "unchecked"
        yield f"{file.number:>11}  {file.folder}/{file.filename}  {state}".replace("  /", "  ")
