"""``StartRejections``: which tasks a rejected Start concerns, and for how long."""

from aluma_async.policy.start_rejections import StartRejections


def middle(low, high):
    return (low + high) / 2


def test_first_rejection_pauses_all_and_later_ones_of_a_project_do_not():
    """Until a Start is accepted, each rejection may concern all tasks, and blames only the first task."""
    rejections = StartRejections()
    assert rejections.record("a", 0, middle) == (True, True)
    assert rejections.record("b", 0, middle) == (True, False)
    rejections.record_accepted("c")
    assert rejections.record("a", 0, middle) == (False, True)
    rejections.record_accepted("c")
    assert rejections.record("d", 0, middle) == (True, True)


def test_hold_of_a_project_doubles_and_rejections_of_a_moment_count_once():
    rejections = StartRejections()
    for _ in range(3):
        rejections.record("a", 0.0, middle)
    assert rejections.holds("a", 1.9)
    assert not rejections.holds("a", 2.0)
    assert not rejections.holds("b", 0.0)
    rejections.record("a", 2.0, middle)
    assert rejections.holds("a", 5.9)
    assert not rejections.holds("a", 6.0)
    assert rejections.held["a"].count == 2


def test_one_task_of_a_project_goes_alone_after_a_hold():
    """If it is rejected, the next hold begins at once; if it is accepted, the project is free."""
    rejections = StartRejections()
    rejections.record("a", 0.0, middle)
    assert not rejections.begin_trial("a", 1.9)
    assert rejections.begin_trial("b", 1.9)
    assert rejections.begin_trial("a", 2.0)
    assert not rejections.begin_trial("a", 61.9)
    rejections.record("a", 3.0, middle)
    assert not rejections.holds("a", 7.0)
    assert rejections.holds("a", 6.9)
    assert rejections.begin_trial("a", 7.0)
    assert not rejections.begin_trial("a", 66.9)
    assert rejections.begin_trial("a", 67.0)
    rejections.record_accepted("a")
    assert not rejections.held
    assert rejections.begin_trial("a", 68.0)


def test_hold_lasts_at_most_five_minutes_and_a_trial_one_minute():
    rejections = StartRejections()
    now, waits = 0.0, []
    for _ in range(10):
        rejections.record("a", now, middle)
        begin = now
        while rejections.holds("a", now):
            now += 1
        waits.append(now - begin)
        assert rejections.begin_trial("a", now)
        assert not rejections.begin_trial("a", now + 59)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_rejection_during_a_hold_is_not_counted_again():
    rejections = StartRejections()
    rejections.record("a", 0.0, middle)
    rejections.record("a", 1.0, middle)
    assert rejections.held["a"].count == 1
    assert not rejections.holds("a", 2.0)
    assert rejections.begin_trial("a", 2.0)
    rejections.record("a", 2.5, middle)
    assert rejections.held["a"].count == 2
    assert not rejections.held["a"].on_trial
