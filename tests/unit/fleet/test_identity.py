"""``Identity``: each process has another id, and names those before it."""

from aluma_async.fleet.identity import FILE_NAME, Identity


def test_identity_is_new_for_each_process_and_names_the_one_before(tmp_path):
    first = Identity(tmp_path, host="host")
    assert first.node_id.startswith("host-")
    assert first.predecessors == ()
    first.confirm()
    second = Identity(tmp_path, host="host")
    assert second.node_id != first.node_id
    assert second.predecessors == (first.node_id,)


def test_identity_names_all_processes_that_the_store_may_know(tmp_path):
    """A process may end before, or just after, the store has received its first report."""
    first, second = Identity(tmp_path), Identity(tmp_path)
    assert Identity(tmp_path).predecessors == (second.node_id, first.node_id)
    for _ in range(50):
        last = Identity(tmp_path)
    assert len(last.predecessors) <= 16
    last.confirm()
    assert last.predecessors == ()
    assert Identity(tmp_path).predecessors == (last.node_id,)


def test_identity_after_a_takeover_is_the_predecessor_of_the_next_process(tmp_path):
    identity = Identity(tmp_path)
    before = identity.node_id
    assert identity.renew() == identity.node_id != before
    assert Identity(tmp_path).predecessors == (identity.node_id,)


def test_identity_file_is_private(tmp_path):
    Identity(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_identity_does_not_need_its_file(tmp_path):
    assert Identity(tmp_path / "missing").predecessors == ()
    assert Identity().predecessors == ()
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\n\n  \n" + b"x" * 10_000)
    assert len(Identity(tmp_path).predecessors) == 2
