"""The bearer token: fetched once for all workers, renewed early, and thrown away when Aluma refuses it.

Source: Aluma's page "Authenticate" (JSON body with the client id and secret, ``expires_in`` in seconds).
It does not know how a request is sent; ``fetch`` does.
"""

from collections.abc import Awaitable, Callable

import anyio

from aluma_async.clock import loop_time

REFRESH_FRACTION = 0.8
"""The share of a token's life after which it is renewed."""


class TokenCache:
    """Holds the token. ``fetch`` returns a new one and its life in seconds, and raises ``SourceError``."""

    def __init__(self, fetch: Callable[[], Awaitable[tuple[str, float]]]) -> None:
        self._fetch = fetch
        self._fetching = anyio.Lock()
        self._token = ""
        self._refresh_at = self._expires_at = 0.0

    async def token(self) -> str:
        """Return a token that should be good. While one worker renews it early, the others go on with the old one."""
        now = loop_time()
        good_until = self._expires_at if self._fetching.locked() else self._refresh_at
        if not self._token or now >= good_until:
            async with self._fetching:
                if not self._token or loop_time() >= self._refresh_at:
                    sent_at = loop_time()
                    self._token, life = await self._fetch()
                    self._refresh_at, self._expires_at = sent_at + REFRESH_FRACTION * life, sent_at + life
        return self._token

    def discard(self, refused: str) -> None:
        """Forget the token if it is the one that was refused; a newer one is kept."""
        if self._token == refused:
            self._token = ""
