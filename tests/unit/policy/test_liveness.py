"""``Liveness``: a node is dead with three pieces of evidence, and with no less."""

import pytest

from aluma_async.policy.liveness import MAX_GAP_SECONDS, SILENCE_SECONDS, Liveness, NodeSnapshot


class Watch:
    """Observes one node each second."""

    def __init__(self, silent_seconds=120.0):
        self.liveness = Liveness(silent_seconds)
        self.now, self.epoch, self.sequence = 100.0, "e", 1

    def observe(self, seconds, *, present, beats=False, step=1.0):
        """Observe for some seconds; return the ids of the nodes that are dead then."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.sequence += beats
            self.liveness.observe(self.now, self.epoch, [NodeSnapshot("n", self.sequence, present)])
        return [node.node_id for node in self.liveness.dead(self.now)]


def watched(**options):
    """Return a watch that has seen the node alive and present."""
    watch = Watch(**options)
    assert watch.observe(3, present=True, beats=True) == []
    return watch


def test_liveness_reports_a_node_when_silent_and_absent():
    watch = watched()
    assert watch.observe(SILENCE_SECONDS - 1, present=False) == []
    assert watch.observe(1, present=False) == ["n"]


def test_liveness_keeps_a_node_whose_heartbeat_continues():
    assert watched().observe(300, present=False, beats=True) == []


def test_liveness_keeps_a_stopped_node_until_silent_seconds():
    """A process that is stopped keeps its connection."""
    watch = watched(silent_seconds=60)
    assert watch.observe(59, present=True) == []
    assert watch.observe(1, present=True) == ["n"]


def test_liveness_keeps_a_node_never_seen_present_until_silent_seconds():
    """Presence may be hidden, or the node's connection may have closed before this watch."""
    watch = Watch(silent_seconds=60)
    assert watch.observe(60, present=False) == []
    assert watch.observe(1, present=False) == ["n"]


@pytest.mark.parametrize("interruption", ["gap", "epoch", "restart"])
def test_liveness_starts_again_after_an_interruption(interruption):
    """After a failure of the store, or its own stall, an observer sees all nodes silent."""
    watch = watched()
    watch.observe(SILENCE_SECONDS - 1, present=False)
    if interruption == "gap":
        watch.now += MAX_GAP_SECONDS
    elif interruption == "epoch":
        watch.epoch = "another"
    else:
        watch.liveness.restart()
    assert watch.observe(SILENCE_SECONDS + 20, present=False) == [], "its presence was not seen open in this watch"


def test_liveness_reports_nothing_after_its_last_observation():
    """A node that is silent only since the observer's own stall is not dead."""
    watch = watched()
    assert watch.observe(SILENCE_SECONDS, present=False) == ["n"]
    assert watch.liveness.dead(watch.now + MAX_GAP_SECONDS + 0.1) == []


def test_liveness_counts_a_long_step_only_up_to_the_observation():
    """The silence is measured between two observations of the same sequence number."""
    watch = watched()
    assert watch.observe(4, present=False, step=2.0) == []
    assert watch.liveness.dead(watch.now + 2.0) == []


def test_liveness_lists_the_active_nodes():
    watch = watched()
    assert watch.liveness.active() == ["n"]
    watch.observe(SILENCE_SECONDS, present=True)
    assert watch.liveness.active() == []


def test_liveness_forgets_a_node_that_is_gone():
    watch = watched()
    watch.observe(SILENCE_SECONDS, present=False)
    watch.liveness.observe(watch.now, "e", [])
    assert watch.liveness.dead(watch.now) == []


def test_liveness_has_no_gap_at_its_longest_step():
    watch = watched()
    assert watch.observe(10, present=False, step=MAX_GAP_SECONDS) == ["n"]
    assert [node.node_id for node in watch.liveness.dead(watch.now + MAX_GAP_SECONDS)] == ["n"]
