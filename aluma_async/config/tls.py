"""Certificate authorities that the exporter trusts."""

import ssl
from pathlib import Path

from aluma_async.exceptions import ConfigError


def ssl_context(ca_file: Path | None, subject: str = "") -> ssl.SSLContext | bool:
    """Return a context that verifies certificates against the system's authorities and those of ``ca_file`` (PEM).

    Raises ``ConfigError``; the message begins with ``subject``.
    """
    if not ca_file:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        reason = "contains no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            f"{subject}ca_file = {ca_file}: {reason}", hint="Set ca_file to a PEM file of certificates."
        ) from None
    return context
