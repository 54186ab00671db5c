"""Helpers for commands that write data to stdout."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import msgspec


def print_json(value: object) -> None:
    """Print an indented JSON value."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


@contextmanager
def ignore_closed_pipe() -> Iterator[None]:
    """End the block without an error if the reader of stdout has gone, as in ``aluma-async list | head``."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes stdout at exit, and that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
