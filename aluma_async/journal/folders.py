"""The folders of the journals of an exporter: the state folder, and one more for each further process.

The first process uses the state folder itself, so that its journal stays in use when the number of processes changes.
"""

import re
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"process-([1-9]\d{0,3})", re.ASCII)


def journal_folder(state: Path, process: int) -> Path:
    """Return the folder of the journal of a process, counted from 1."""
    return state if process == 1 else state / f"process-{process}"


def journal_folders(state: Path) -> list[Path]:
    """Return the state folder and the existing folders of further processes, also of those of an earlier run."""
    numbers = []
    with suppress(OSError):  # it does not exist, or the error is reported when it is used
        for path in state.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and int(match[1]) > 1 and path.is_dir():
                numbers.append(int(match[1]))
    return [state, *(journal_folder(state, number) for number in sorted(numbers))]
