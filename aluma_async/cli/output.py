"""Helpers for commands that write data to stdout."""

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import click

from aluma_async.cli.streams import discard_stdout
from aluma_async.service.formatting import indented_json


def print_json(value: object) -> None:
    """Print an indented JSON value."""
    click.echo(indented_json(value))


@cache
def output_columns() -> int | None:
    """Return the width of the terminal that shows stdout, directly or through a pipe to a pager; None: a file."""
    try:
        descriptor = sys.stdout.fileno()
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            descriptor = sys.stderr.fileno()
        return os.get_terminal_size(descriptor).columns
    except (OSError, ValueError):  # no terminal
        return None


def wrap_parts(indent: str, parts: Iterable[str], columns: int | None, *, gap: str = "  ") -> Iterator[str]:
    """Yield the parts as one line, or as several with a deeper indent if they do not fit; no part is broken."""
    line, is_empty = indent, True
    for part in filter(None, parts):
        if not is_empty and columns is not None and len(line) + len(gap) + len(part) > columns:
            yield line
            line, is_empty = f"{indent}  ", True
        line += part if is_empty else gap + part
        is_empty = False
    if not is_empty:
        yield line


@contextmanager
def ignore_closed_pipe() -> Iterator[None]:
    """End the block without an error if the reader of stdout has gone, as in ``aluma-async list | head``."""
    try:
        yield
    except BrokenPipeError:
        discard_stdout()
