"""Destinations from other packages: the keys of the config section become arguments of the package's entry point."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aluma_async.config.destinations import PluginConfig, installed_types
from aluma_async.config.schema import suggest
from aluma_async.exceptions import ConfigError
from aluma_async.ports import Destination


def open_plugin(config: PluginConfig, state: Path, stack: AsyncExitStack) -> Destination:  # noqa: ARG001 - not offered to plug-ins
    """Create the destination; ``stack`` calls its ``close``, if it has one. Raises ``ConfigError``."""
    subject = f"type = {config.kind!r}"
    try:
        factory = installed_types()[config.kind].load()
    except Exception as error:  # an import may raise anything
        raise ConfigError(
            f"{subject}: cannot be loaded: {error!r}", hint="Check that the package is completely installed."
        ) from error
    _check_keys(factory, config.keys, subject)
    try:
        destination: Destination = factory(**config.keys)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{subject}: {error}", hint="See the documentation of the plug-in.") from error
    if not all(hasattr(destination, method) for method in ("probe", "open")):
        raise ConfigError(f"{subject}: is not a destination", hint="Add the methods probe() and open(claim) to it.")
    if hasattr(destination, "close"):
        stack.push_async_callback(_close, destination.close)
    return destination


def _check_keys(factory: Callable[..., Any], keys: Mapping[str, Any], subject: str) -> None:
    """Compare the keys of the config with the parameters of the factory. Raises ``ConfigError``."""
    parameters = inspect.signature(factory).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    known = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    for key in keys:
        if key not in known:
            hint = suggest(key, known) if known else "Remove it: this type has no keys."
            raise ConfigError(f"{subject}: unknown key {key!r}", hint=hint)
    for each in parameters:
        if each.name in known and each.default is each.empty and each.name not in keys:
            raise ConfigError(f"{subject}: the key {each.name!r} is missing", hint="Add that key.")


async def _close(close: Callable[[], Any]) -> None:
    result = close()
    if inspect.isawaitable(result):
        await result
