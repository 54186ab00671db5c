"""``init``: asks for the credentials and a folder, tries both, and writes a configuration file. Claims nothing."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import click

from aluma_async.cli.check import check_environment
from aluma_async.cli.config_show import toml_value
from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import add_options, merge_options
from aluma_async.cli.systemd import unit_text
from aluma_async.config import Config, Credentials
from aluma_async.config.credentials import read_secret
from aluma_async.exceptions import ConfigError
from aluma_async.private_files import NEW

_SECRET_FILE = "client-secret"  # noqa: S105 - its name
_DEFAULT_FOLDER = "aluma-export"
_TEXT = """\
# Configuration of aluma-async. "aluma-async help configuration" explains every key; "aluma-async check" tests changes.

[aluma]
{api}client_id = {client_id}
client_secret_file = {secret_file}   # contains only the secret; only you may read it

[exporter]
# workers = 16                 # tasks exported at the same time

[destinations.default]         # databases, object stores, WebDAV: "aluma-async help destinations"
type = "folder"
path = {folder}

[service]
# listen = "127.0.0.1:9464"    # address of /metrics, /healthz and /readyz
"""


@click.command()
@click.option("--client-id", metavar="ID", help="Id of the API client.  [default: $ALUMA_CLIENT_ID, else asked for]")
@click.option("--no-check", is_flag=True, help="Write the files without trying the settings.")
@click.option("--unit", type=click.Path(path_type=Path), metavar="FILE", help="Write a systemd unit, too.")
@add_options("config", "output", "base_url", "allow_insecure", "traceback")
@click.pass_obj
def init(outer: dict[str, Any], /, *, client_id: str | None, no_check: bool, unit: Path | None, **inner: Any) -> int:
    """Write a first configuration file.

    Asks for the credentials and a folder for the files, tries both, and claims nothing. The secret is stored beside the
    configuration, in a file that only you can read. Existing files are replaced only if you agree. Scripts use the
    options and ALUMA_CLIENT_SECRET.
    """
    options = merge_options(outer, inner)
    file = Path(options.get("config") or "config.toml").absolute()
    secret_file = file.with_name(_SECRET_FILE)
    _agree_to_replace(file)
    client_id = client_id or os.environ.get("ALUMA_CLIENT_ID", "").strip()
    client_id = client_id or _ask("Id of the API client (from Aluma's administration portal)", "--client-id")
    secret, is_stored = _secret(secret_file)
    folder = Path(options.get("output") or _ask("Folder for the exported files", "--output", default=_DEFAULT_FOLDER))
    text = _text(options, client_id, folder.expanduser().absolute())
    config = Config.from_toml(text, str(file), folder=file.parent)
    if unit is None and shutil.which("systemctl") and _is_interactive() and _confirm("Write a systemd unit, too?"):
        unit = file.with_name("aluma-async.service")
    if unit:
        _agree_to_replace(unit)
    if not no_check:
        codes = anyio.run(check_environment, config, Credentials(client_id, secret))
        if codes and not (_is_interactive() and _confirm("Write the configuration all the same?")):
            return codes[0]
    if not is_stored:
        _write(secret_file, f"{secret}\n", 0o600)
    _write(file, text, 0o644)
    if unit:
        _write(unit, unit_text({"config": str(file)}), 0o644)
    click.echo(_next_steps("" if file == Path("config.toml").absolute() else f" -c {file}", unit))
    return OK


def _text(options: Mapping[str, Any], client_id: str, folder: Path) -> str:
    """Return the text of the configuration file."""
    api = ""
    if options.get("base_url"):
        api += f"base_url = {toml_value(options['base_url'])}\n"
    if options.get("allow_insecure"):
        api += "allow_insecure = true          # http sends the secret and the documents unencrypted\n"
    values = {"client_id": client_id, "secret_file": _SECRET_FILE, "folder": str(folder)}
    return _TEXT.format(api=api, **{name: toml_value(value) for name, value in values.items()})


def _secret(file: Path) -> tuple[str, bool]:
    """Return the secret, and whether it is in the file already."""
    secret = os.environ.get("ALUMA_CLIENT_SECRET", "").strip()
    if file.exists():
        stored = read_secret(file)
        if secret in ("", stored):
            click.echo(f"The secret in {file} is used.", err=True)
            return stored, True
        _agree_to_replace(file)
    return secret or _ask("Secret of the API client (not shown)", "ALUMA_CLIENT_SECRET", hide_input=True).strip(), False


def _is_interactive() -> bool:
    return sys.stdin.isatty()


def _ask(question: str, source: str, **options: Any) -> str:
    if not _is_interactive():
        raise click.UsageError(f"no terminal to ask for a missing value; use {source}")
    return str(click.prompt(question, err=True, **options))


def _confirm(question: str) -> bool:
    return click.confirm(question, err=True)


def _agree_to_replace(file: Path) -> None:
    """Raise ``ConfigError`` unless the file is new, or the user agrees to replace it."""
    if file.exists() and not (_is_interactive() and _confirm(f"{file} exists. Replace it?")):
        raise ConfigError(f"{file}: exists, and is not replaced", hint="Move it away, or use another --config.")


def _write(file: Path, text: str, mode: int) -> None:
    """Write a file completely or not at all. Raises ``ConfigError``."""
    new = file.with_name(f"{file.name}.new")
    try:
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, NEW, mode), "w", encoding="utf-8") as stream:
            stream.write(text)
        new.replace(file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}", hint="Choose another folder.") from None
    click.echo(f"written: {file}")


def _next_steps(option: str, unit: Path | None) -> str:
    steps = {
        f"aluma-async{option} --dry-run": "print which tasks would be exported; claims nothing",
        f"aluma-async{option} --limit 1": "export one task, and look at it",
        f"aluma-async{option}": "export until stopped with Ctrl-C",
    }
    width = max(map(len, steps))
    lines = [f"  {command:<{width}}  # {meaning}" for command, meaning in steps.items()]
    service = [f"{unit} explains in its first lines how to install it."] if unit else []
    return "\n".join(["next:", *lines, *service])
