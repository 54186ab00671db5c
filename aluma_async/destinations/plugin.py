"""Destinations that other packages bring: what their table holds is given to what their entry point names."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aluma_async.config.destinations import PluginConfig, installed_types
from aluma_async.config.schema import suggest
from aluma_async.exceptions import ConfigError
from aluma_async.ports import Destination


def open_plugin(config: PluginConfig, state: Path, stack: AsyncExitStack) -> Destination:  # noqa: ARG001 - theirs to choose
    """Make a destination; if it has ``close``, that is called, and awaited, at the end. Raises ``ConfigError``."""
    what = f"type = {config.kind!r}"
    try:
        make = installed_types()[config.kind].load()
    except Exception as error:  # an import may raise anything
        raise ConfigError(f"{what}: cannot be loaded: {error!r}", hint="Is it installed whole?") from error
    _check_keys(make, config.keys, what)
    try:
        destination: Destination = make(**config.keys)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: {error}", hint="Its own documentation tells what it takes.") from error
    if not all(hasattr(destination, verb) for verb in ("probe", "open")):
        raise ConfigError(f"{what}: is no destination", hint="It has to have probe() and open(claim).")
    if hasattr(destination, "close"):
        stack.push_async_callback(_close, destination.close)
    return destination


def _check_keys(make: Callable[..., Any], keys: Mapping[str, Any], what: str) -> None:
    takes = inspect.signature(make).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in takes):
        return
    known = [each.name for each in takes if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    for key in keys:
        if key not in known:
            raise ConfigError(f"{what}: has no key {key!r}", hint=suggest(key, known) if known else "It takes none.")
    for each in takes:
        if each.name in known and each.default is each.empty and each.name not in keys:
            raise ConfigError(f"{what}: the key {each.name!r} is missing", hint="Add that key.")


async def _close(close: Callable[[], Any]) -> None:
    closing = close()
    if inspect.isawaitable(closing):
        await closing
