"""``Restarts``: the delay doubles, and five failures within a minute end the service."""

from aluma_async.supervisor.restarts import Restarts


def test_restarts_double_their_delay_up_to_30_seconds():
    restarts, now, delays = Restarts(), 0.0, []
    for _ in range(9):
        delays.append(restarts.delay(now, now + 20.0))
        now += 20.0
    assert delays == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert restarts.count == 9


def test_restarts_give_up_at_the_fifth_failure_within_a_minute():
    restarts = Restarts()
    assert [restarts.delay(at, at + 1.0) is None for at in (0, 10, 20, 30, 40)] == [False] * 4 + [True]


def test_restarts_begin_again_after_a_minute_without_a_failure():
    restarts = Restarts()
    assert [restarts.delay(at, at + 1.0) for at in (0, 10, 20)] == [0.25, 0.5, 1.0]
    assert restarts.delay(30, 100.0) == 0.25
