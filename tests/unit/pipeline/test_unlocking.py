"""``FailureHandler``: how long the copy of a failed task is locked."""

import pytest

from aluma_async.exceptions import Ambiguous, ClaimConflict
from tests.support.clock import virtual_time
from tests.support.failures import FATAL, TASK, Parts


@pytest.mark.parametrize("fail", [None, ClaimConflict("409"), Ambiguous("lost")])
@virtual_time
async def test_copy_is_unlocked_when_fail_was_sent(fail):
    """Whatever the reply is, so that an administrator can remove it."""
    parts, unlocked = Parts(), []
    parts.quarantine.unlock = unlocked.append
    if fail:
        parts.requests.errors["fail"] = fail
    await parts.handle(FATAL)
    assert unlocked == [TASK]
