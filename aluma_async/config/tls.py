"""Whom to trust when a server says who it is."""

import ssl
from pathlib import Path

from aluma_async.exceptions import ConfigError


def ssl_context(ca_file: Path | None, where: str = "") -> ssl.SSLContext | bool:
    """Certificates are always verified; ``ca_file`` names authorities (PEM) beside the system's.

    Raises ``ConfigError`` about ``where``.
    """
    if not ca_file:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        reason = "holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"{where}ca_file = {ca_file}: {reason}", hint="Name a PEM file of certificates.") from None
    return context
