"""Messages about the lack of file descriptors."""

import logging

from aluma_async.cli.open_files import AcceptErrorFilter


def record(text):
    error = OSError(24, "Too many open files")
    return logging.LogRecord("asyncio", logging.ERROR, "", 0, text, None, (OSError, error, None))


def test_connections_that_cannot_be_accepted_are_reported_once_a_minute():
    """Without a stack; other messages of asyncio pass unchanged."""
    log_filter = AcceptErrorFilter()
    refused = [record("socket.accept() out of system resource\nsocket: <TransportSocket fd=11>") for _ in range(100)]
    assert [log_filter.filter(each) for each in refused] == [True] + [False] * 99
    assert refused[0].exc_info is None
    other = record("Task exception was never retrieved")
    assert log_filter.filter(other)
    assert other.exc_info
