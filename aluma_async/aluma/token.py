"""``TokenCache``: one bearer token for all workers, refreshed early and discarded when Aluma refuses it.

Source: Aluma's page "Authenticate" (JSON body with the client id and secret, ``expires_in`` in seconds).
The request for a token is sent by ``fetch``.
"""

from collections.abc import Awaitable, Callable

import anyio

from aluma_async.clock import loop_time

REFRESH_FRACTION = 0.8
"""Fraction of a token's lifetime after which it is refreshed."""
MIN_LIFETIME_SECONDS = 5.0
"""Seconds for which a token is used at least, whatever its lifetime, so that not each request needs a token. If it is
refused earlier, it is discarded."""


class TokenCache:
    """Holds the token. ``fetch`` returns a new token and its lifetime in seconds, or raises ``SourceError``."""

    def __init__(self, fetch: Callable[[], Awaitable[tuple[str, float]]]) -> None:
        self._fetch = fetch
        self._fetch_lock = anyio.Lock()
        self._token = ""
        self._refresh_at = self._expires_at = 0.0

    async def token(self) -> str:
        """Return a token that should be valid. While one worker refreshes it early, others use the old token."""
        now = loop_time()
        usable_until = self._expires_at if self._fetch_lock.locked() else self._refresh_at
        if not self._token or now >= usable_until:
            async with self._fetch_lock:
                if not self._token or loop_time() >= self._refresh_at:
                    sent_at = loop_time()
                    self._token, lifetime = await self._fetch()
                    lifetime = max(lifetime, MIN_LIFETIME_SECONDS)
                    self._refresh_at, self._expires_at = sent_at + REFRESH_FRACTION * lifetime, sent_at + lifetime
        return self._token

    def discard(self, refused: str) -> None:
        """Discard the token if it is the refused one. A newer token is kept."""
        if self._token == refused:
            self._token = ""
