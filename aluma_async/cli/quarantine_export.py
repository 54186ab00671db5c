"""``quarantine export``: copies the files of a quarantined task into a folder. An exporter may run meanwhile."""

from pathlib import Path
from typing import Any

import click

from aluma_async.cli.copies import complete_task_ids, read_copies, require_quarantine, selected_copies
from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.options import add_options, load_config, merge_options
from aluma_async.exceptions import DestinationUnavailable, SourceError
from aluma_async.models import ExportFile
from aluma_async.policy.naming import plan_paths
from aluma_async.quarantine.folder import Copy, QuarantineFolder
from aluma_async.quarantine.records import SPEC_NAME, SPEC_NUMBER
from aluma_async.service.formatting import pluralize, sanitize


@click.command()
@click.argument("task_id", shell_complete=complete_task_ids)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@add_options("config", "state", "traceback")
@click.pass_context
def export(context: click.Context, /, *, task_id: str, folder: Path, **inner: Any) -> int:
    """Copy a quarantined task into a folder.

    Writes its files, under their own names, and specification.json into DIR, which must be new or empty. The copy in
    the quarantine stays. The exit code is 1 if a file is missing, or if another copy cannot be read.
    Put "--" before an id that starts with a dash.
    """
    config = load_config(merge_options(context.obj, inner))
    require_quarantine(config)
    copies = read_copies(config)
    for copy in selected_copies(copies.best, [task_id]):
        _check_target(folder, config.state_folder())
        quarantine = QuarantineFolder(config.quarantine_folder())
        try:
            written, problems = _export(quarantine, copy, folder)
        except OSError as error:
            raise DestinationUnavailable(f"folder {folder}: {error.strerror or error}") from None
        for problem in problems:
            click.echo(sanitize(problem), err=True)
        click.echo(f"exported {pluralize(written, 'file')} of task {sanitize(task_id)} to {folder}")
        return INCOMPLETE if problems or copies.may_have_another(task_id) else OK
    return INCOMPLETE


def _check_target(folder: Path, state: Path) -> None:
    if folder.is_dir() and next(folder.iterdir(), None):
        raise click.BadParameter(f"{folder} is not empty", param_hint="DIR")
    if folder.resolve().is_relative_to(state.resolve()):
        raise click.BadParameter(f"{folder} is in the state folder", param_hint="DIR")


def _export(quarantine: QuarantineFolder, copy: Copy, folder: Path) -> tuple[int, list[str]]:
    """Write all files that are as they were stored; return their number, and a message for each other one."""
    folder.mkdir(parents=True, exist_ok=True)
    written, problems = 0, []
    files = [ExportFile(file.number, 0, file.folder, file.filename, "url") for file in copy.record.files]
    spec = ExportFile(SPEC_NUMBER, 0, "", SPEC_NAME, "content")
    for file, parts in zip([*files, spec], plan_paths([*files, spec]).values(), strict=True):
        if reason := copy.missing.get(file.number):
            problems.append(f"task {copy.task_id}: file {file.number}: {reason}")
            continue
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as target:
                if file is spec:
                    target.write(quarantine.read_specification(copy))
                else:
                    target.writelines(quarantine.read_file(copy, file.number))
        except SourceError as error:
            path.unlink(missing_ok=True)
            problems.append(str(error))
        else:
            written += 1
    return written, problems
