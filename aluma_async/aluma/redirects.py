"""Redirects of downloads: which targets are allowed.

The same targets are allowed as for URLs of an Export Specification, see ``urls``.
"""

import socket
from collections.abc import Collection

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aluma_async.aluma.urls import DownloadUrls, RefusedUrl, Target, encode_url, is_private_address, normalized_hosts
from aluma_async.exceptions import SourceError

REDIRECT_STATUSES = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 3


def resolve_redirect(operation: str, url: URL, location: str, urls: DownloadUrls) -> Target:
    """Return the target of a redirect. Raises ``SourceError`` if a download must not be sent there."""
    try:
        absolute = url.join(URL(encode_url(location, safe="#[]"), encoded=True))
    except ValueError:
        raise SourceError(f"{operation}: redirected to an invalid URL") from None
    target = urls.permit(absolute)
    if isinstance(target, RefusedUrl):
        raise SourceError(f"{operation}: redirected, and the {target.reason}", hint=target.hint)
    return target


class PublicResolver(AbstractResolver):
    """Wraps ``resolver`` and rejects private addresses for ``download_hosts``."""

    def __init__(self, resolver: AbstractResolver, download_hosts: Collection[str]) -> None:
        self._resolver = resolver
        self._download_hosts = normalized_hosts(download_hosts)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a host name. Raises ``OSError``."""
        addresses = await self._resolver.resolve(host, port, family)
        if host.lower() in self._download_hosts and any(is_private_address(result["host"]) for result in addresses):
            raise OSError(None, f"{host} resolves to a private address")
        return addresses

    async def close(self) -> None:
        """Close the wrapped resolver."""
        await self._resolver.close()
