"""Fixtures that several test modules of the pipeline share."""

import pytest

from tests.support.quarantine import CONTENT, Files, Store


@pytest.fixture
def store(tmp_path):
    """A quarantine whose source has all files of ``SPEC``."""
    return Store(tmp_path / "quarantine", Files(CONTENT))
