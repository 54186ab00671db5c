"""``Identity``: each process has another id, and names those before it."""

from aluma_async.fleet.identity import FILE_NAME, Identity


def stored(*arguments, **options):
    """Return an identity of a process that has locked the folder."""
    identity = Identity(*arguments, **options)
    identity.store()
    return identity


def test_identity_is_new_for_each_process_and_names_the_one_before(tmp_path):
    first = stored(tmp_path, host="host")
    assert first.node_id.startswith("host-")
    assert first.predecessors == ()
    first.confirm()
    second = stored(tmp_path, host="host")
    assert second.node_id != first.node_id
    assert second.predecessors == (first.node_id,)


def test_identity_names_all_processes_that_the_store_may_know(tmp_path):
    """A process may end before, or just after, the store has received its first report."""
    first, second = stored(tmp_path), stored(tmp_path)
    assert stored(tmp_path).predecessors == (second.node_id, first.node_id)
    for _ in range(50):
        last = stored(tmp_path)
    assert len(last.predecessors) <= 16
    last.confirm()
    assert last.predecessors == ()
    assert stored(tmp_path).predecessors == (last.node_id,)


def test_identity_after_a_takeover_is_the_predecessor_of_the_next_process(tmp_path):
    identity = stored(tmp_path)
    before = identity.node_id
    assert identity.renew() == identity.node_id != before
    assert stored(tmp_path).predecessors == (identity.node_id,)


def test_identity_file_is_private(tmp_path):
    stored(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_identity_does_not_need_its_file(tmp_path):
    assert stored(tmp_path / "missing").predecessors == ()
    assert stored().predecessors == ()
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\n\n  \n" + b"x" * 10_000)
    assert len(stored(tmp_path).predecessors) == 2


def test_identity_is_not_stored_before_the_folder_is_locked(tmp_path):
    """Another process may use the folder, so that this one ends without having been a node."""
    Identity(tmp_path)
    assert not list(tmp_path.iterdir())
