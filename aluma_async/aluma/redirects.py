"""Redirects of downloads: which targets are allowed.

A redirect within the API's own origin is allowed. Any other target needs HTTPS, a host that the administrator listed,
and a public address. The caller sends no token to another origin.
"""

import ipaddress
import socket
from collections.abc import Collection

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aluma_async.exceptions import SourceError

REDIRECT_STATUSES = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 3


def resolve_redirect(operation: str, url: URL, location: str, api: URL, redirect_hosts: Collection[str]) -> URL:
    """Return the target of a redirect. Raises ``SourceError`` if a download must not be sent there."""
    try:
        target = url.join(URL(location, encoded=True))
        origin, host = target.origin(), target.host or ""
    except ValueError:
        raise SourceError(f"{operation}: redirected to an invalid URL") from None
    if origin == api.origin():
        return target
    if target.scheme != "https" or host not in redirect_hosts or target.user is not None:
        raise SourceError(
            f"{operation}: redirected to another host",
            hint=f'If Aluma stores files on that host, set download_hosts = ["{host}"] under [aluma] (HTTPS only).',
        )
    if is_private_address(host):
        raise SourceError(f"{operation}: redirected to a private address")
    return target


class PublicResolver(AbstractResolver):
    """Wraps ``resolver`` and rejects private addresses for the hosts in ``redirect_hosts``."""

    def __init__(self, resolver: AbstractResolver, redirect_hosts: Collection[str]) -> None:
        self._resolver = resolver
        self._redirect_hosts = frozenset(redirect_hosts)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a host name. Raises ``OSError``."""
        addresses = await self._resolver.resolve(host, port, family)
        if host in self._redirect_hosts and any(is_private_address(result["host"]) for result in addresses):
            raise OSError(None, f"{host} resolves to a private address")
        return addresses

    async def close(self) -> None:
        """Close the wrapped resolver."""
        await self._resolver.close()


def is_private_address(host: str) -> bool:
    """Return whether ``host`` is an IP address that is not public (private, loopback, ...); False for a host name."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
