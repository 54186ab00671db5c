"""``help``: show the reference pages that are installed with the program."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import add_options, merge_options
from aluma_async.cli.output import ignore_closed_pipe
from aluma_async.config.schema import suggest
from aluma_async.service.color import Color

TOPICS: Mapping[str, str] = {
    "configuration": "settings: file, environment, credentials, every key",
    "destinations": "folder, database, object store, WebDAV, routes, manifest",
    "operations": "commands, service, container, exit codes, backup, upgrade",
    "fleet": "several exporters on one or many machines share tasks and limits",
    "monitoring": "metrics, health, alerts, logs, notifications",
    "troubleshooting": "messages, their causes and remedies",
    "embedding": "the Python library, your own destination",
    "design": "guarantees, how a task is exported, parts of the program",
}
"""Page -> its content, in one line."""

_MAX_WIDTH = 100
"""Columns; longer lines are hard to read."""


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [topic for topic in TOPICS if topic.startswith(incomplete)]


@click.command("help")
@click.argument("topic", required=False, shell_complete=_complete)
@add_options("color")
@click.pass_obj
def show_help(outer: dict[str, Any], /, topic: str | None, **inner: Any) -> int:
    """Show a reference page, or list them.

    On a terminal the page is rendered and shown in a pager ($PAGER); elsewhere it is Markdown, unless --color is
    "always".
    """
    if topic is None:
        for name, content in TOPICS.items():
            click.echo(f"{name:<16} {content}")
        click.echo("\n'aluma-async help TOPIC' shows a page, 'aluma-async COMMAND --help' the options of a command.")
    elif topic not in TOPICS:
        raise click.UsageError(f"unknown page {topic!r}. {suggest(topic, TOPICS)}")
    else:
        _show(page(topic), merge_options(outer, inner).get("color") or "auto")
    return OK


def page(topic: str) -> str:
    """Return a page as Markdown."""
    return (files("aluma_async") / "docs" / f"{topic}.md").read_text("utf-8")


def _show(text: str, color: Color) -> None:
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not is_terminal and color != "always":
        with ignore_closed_pipe():
            click.echo(text, nl=False)
            sys.stdout.flush()
        return
    from aluma_async.cli.markdown import render  # imports rich, which costs memory and time

    columns = shutil.get_terminal_size().columns
    rendered = render(text, min(columns, _MAX_WIDTH), color)
    if is_terminal:
        click.echo_via_pager(rendered, color=color != "never" and allow_styles(os.environ))
        return
    with ignore_closed_pipe():
        click.echo(rendered, nl=False, color=True)
        sys.stdout.flush()


def allow_styles(environ: MutableMapping[str, str]) -> bool:
    """Return whether the pager shows styles; ``less``, the usual one, shows them with -R, which is set if possible."""
    pager = shlex.split(environ.get("PAGER", "")) or ["less"]
    if Path(pager[0]).name != "less" or _shows_styles(pager[1:]):
        return True
    return _shows_styles(environ.setdefault("LESS", "-R").split())


def _shows_styles(less_options: Iterable[str]) -> bool:
    return any(
        option.upper() == "--RAW-CONTROL-CHARS" if option.startswith("--") else "r" in option.lower()
        for option in less_options
    )
