"""Fixtures for the tests of the folder destination."""

import sys

import pytest

from tests.support.folders import destination

__all__ = ["before_disk_step", "destination"]

_hooks = []


def _audit(event, _):
    if _hooks:
        _hooks[0](event)


sys.addaudithook(_audit)  # an audit hook cannot be removed


@pytest.fixture
def before_disk_step():
    """Return a function that calls ``action`` just before the n-th audit event of some kinds, counted from now on."""

    def install(kinds, number, action):
        remaining = number

        def hook(event):
            nonlocal remaining
            remaining -= event in kinds.split()
            if not remaining:
                _hooks.clear()
                action()

        _hooks.append(hook)
        return _hooks.clear

    yield install
    _hooks.clear()
