"""``help``: show the reference pages that are installed with the program."""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.resources import files
from typing import ClassVar

import click

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.output import ignore_closed_pipe
from aluma_async.config.schema import suggest

TOPICS: Mapping[str, str] = {
    "configuration": "settings: file, environment, credentials, every key",
    "destinations": "folder, database, object store, WebDAV, routes, manifest",
    "operations": "commands, service, container, exit codes, backup, upgrade",
    "monitoring": "metrics, health, alerts, logs, notifications",
    "troubleshooting": "messages, their causes and remedies",
    "embedding": "the Python library, your own destination",
    "design": "guarantees, how a task is exported, parts of the program",
}
"""Page -> its content, in one line."""

_MAX_WIDTH = 100
"""Columns; longer lines are hard to read."""
_PAGE_LINK = re.compile(r"\[([^\]]+)\]\((\w+)\.md(?:#[\w-]+)?\)")
_LOCAL_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]+\)")


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [topic for topic in TOPICS if topic.startswith(incomplete)]


@click.command("help")
@click.argument("topic", required=False, shell_complete=_complete)
def show_help(topic: str | None) -> int:
    """Show a reference page, or list them.

    On a terminal the page is rendered and shown in a pager ($PAGER); elsewhere it is Markdown.
    """
    if topic is None:
        for name, content in TOPICS.items():
            click.echo(f"{name:<16} {content}")
        click.echo("\n'aluma-async help TOPIC' shows a page, 'aluma-async COMMAND --help' the options of a command.")
    elif topic not in TOPICS:
        raise click.UsageError(f"unknown page {topic!r}. {suggest(topic, TOPICS)}")
    else:
        _show(page(topic))
    return OK


def page(topic: str) -> str:
    """Return a page as Markdown."""
    return (files("aluma_async") / "docs" / f"{topic}.md").read_text("utf-8")


def _show(text: str) -> None:
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        with ignore_closed_pipe():
            click.echo(text, nl=False)
            sys.stdout.flush()
        return
    columns = shutil.get_terminal_size().columns
    click.echo_via_pager(render(text, min(columns, _MAX_WIDTH)), color=True)


def render(text: str, width: int) -> str:
    """Return Markdown as text for a terminal; links between pages become the command that shows the page."""
    from rich.console import Console, ConsoleOptions, RenderResult  # imported here because rich costs memory and time
    from rich.markdown import Markdown, TableElement
    from rich.table import Table

    class Folded(TableElement):
        """A table that wraps long words; rich cuts them off."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for table in super().__rich_console__(console, options):
                if isinstance(table, Table):
                    for column in table.columns:
                        column.overflow = "fold"
                yield table

    class Page(Markdown):
        elements: ClassVar = {**Markdown.elements, "table_open": Folded}

    text = _PAGE_LINK.sub(r"\1 (`aluma-async help \2`)", text)
    text = _LOCAL_LINK.sub(r"\1", text)
    console = Console(width=width, force_terminal=True)
    with console.capture() as capture:
        console.print(Page(text, hyperlinks=False))
    return capture.get()
