"""``ObjectStoreDestination`` with S3 servers that honour conditional writes (moto) and one that does not (rclone)."""

import hashlib
import json
from collections import Counter

import anyio
import pytest

from aluma_async.destinations.object_store.destination import ObjectStoreDestination
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.policy.naming import as_object_key
from tests.support import buckets
from tests.support.clock import real_time
from tests.support.processes import simulator
from tests.support.tasks import deliver, make_claim

both_servers = pytest.mark.parametrize("server", ["moto", "rclone"])


def open_bucket(options, prefix, **arguments):
    return ObjectStoreDestination(f"s3://bucket/{prefix}", options=options, **arguments)


@pytest.mark.parametrize(("server", "honoured"), [("moto", True), ("rclone", False)])
@real_time
async def test_probe_detects_whether_conditional_writes_are_honoured(s3_servers, server, honoured, prefix):
    """The second probe finds the marker that the first one wrote."""
    for _ in range(2):
        destination = open_bucket(s3_servers[server], prefix)
        await destination.probe()
        assert destination.conditional is honoured
        assert bool(destination.warning) is not honoured


@real_time
async def test_object_has_type_task_project_and_digest_as_metadata(moto, prefix):
    claim = make_claim("t/1 ü", ("a b", "1.pdf"), project="pü")
    await deliver(open_bucket(moto, prefix), claim, b"pdf")
    response = buckets.s3_client(moto).head_object(Bucket="bucket", Key=f"{prefix}/a b/1.pdf")
    assert response["ContentType"] == "application/pdf"
    assert response["Metadata"]["task"] == "t/1 %C3%BC"
    assert response["Metadata"]["project"] == "p%C3%BC"
    assert response["Metadata"]["sha256"] == hashlib.sha256(b"pdf").hexdigest()


@both_servers
@pytest.mark.parametrize(
    ("on_conflict", "remaining"), [("keep-both", [b"one", b"two"]), ("overwrite", [b"two"]), ("fail", [b"one"])]
)
@real_time
async def test_on_conflict_decides_about_a_key_of_another_task(s3_servers, server, on_conflict, remaining, prefix):
    destination = open_bucket(s3_servers[server], prefix, on_conflict=on_conflict)
    await deliver(destination, make_claim("one", ("", "a.txt")), b"one")
    claim = make_claim("two", ("", "a.txt"), ("", "b.txt"))
    if on_conflict == "fail":
        with pytest.raises(DestinationError, match="file 0: another file already has this name"):
            await deliver(destination, claim, b"two", b"two")
    else:
        for _ in range(2):
            await deliver(destination, claim, b"two", b"two")
        remaining = [*remaining, b"two"]
    assert Counter(buckets.read_objects(s3_servers[server], prefix).values()) == Counter(remaining)


@real_time
async def test_tasks_of_several_exporters_with_the_same_key_are_all_kept(moto, prefix):
    destinations = [open_bucket(moto, prefix) for _ in range(3)]
    async with anyio.create_task_group() as group:
        for number in range(12):
            claim = make_claim(f"t{number}", "same.txt")
            group.start_soon(deliver, destinations[number % 3], claim, str(number))
    assert sorted(map(int, buckets.read_objects(moto, prefix).values())) == list(range(12))


@real_time
async def test_object_of_another_program_is_not_replaced(moto, prefix):
    buckets.s3_client(moto).put_object(Bucket="bucket", Key=f"{prefix}/a.txt", Body=b"foreign")
    await deliver(open_bucket(moto, prefix), make_claim("t", ("", "a.txt")), b"exported")
    objects = buckets.read_objects(moto, prefix)
    assert objects.pop(f"{prefix}/a.txt") == b"foreign"
    assert list(objects.values()) == [b"exported"]


@real_time
async def test_new_objects_are_deleted_when_one_cannot_be_put(moto, prefix):
    """An object that existed before, and was replaced, remains."""
    destination = open_bucket(moto, prefix, on_conflict="fail")
    await deliver(destination, make_claim("other", ("", "taken.txt")), b"other")
    await deliver(destination, make_claim("t", ("", "a.txt")), b"before")
    paths = [("", "a.txt"), *(("", f"{number}.txt") for number in range(20)), ("", "taken.txt")]
    with pytest.raises(DestinationError, match="another file already has this name"):
        await deliver(destination, make_claim("t", *paths), *[b"new"] * len(paths))
    assert set(buckets.read_objects(moto, prefix)) == {f"{prefix}/taken.txt", f"{prefix}/a.txt"}


@real_time
async def test_key_that_is_too_long_is_truncated_in_the_same_way_each_time(moto, prefix):
    folder = "/".join(["ä" * 120] * 12)
    key = as_object_key((*folder.split("/"), "a.txt"), 1000)
    assert len(key.encode()) <= 1000
    assert key.endswith("/a.txt")
    assert key != as_object_key((*folder.split("/"), "ä", "a.txt"), 1000)
    assert as_object_key(("a", "b.txt"), 1000) == "a/b.txt"
    for _ in range(2):
        await deliver(open_bucket(moto, prefix), make_claim("t", (folder, "a.txt")), b"deep")
    assert list(buckets.read_objects(moto, prefix).values()) == [b"deep"]


@real_time
async def test_missing_bucket_is_reported_until_it_is_created(moto):
    destination = ObjectStoreDestination("s3://later/x", options=moto)
    claim = make_claim("t", ("", "a.txt"))
    with pytest.raises(DestinationUnavailable, match="s3://later/x: 404 NoSuchBucket") as caught:
        await destination.probe()
    assert "bucket" in caught.value.hint
    with pytest.raises(DestinationUnavailable):
        await deliver(destination, claim, b"data")
    buckets.s3_client(moto).create_bucket(Bucket="later")
    await deliver(destination, claim, b"data")
    assert buckets.s3_client(moto).get_object(Bucket="later", Key="x/a.txt")["Body"].read() == b"data"


def test_wrong_access_key_is_reported_without_the_secret(s3_servers):
    assert "403" in probe_error({**s3_servers["rclone"], "secret_access_key": "canary-wrong"})


def test_unreachable_store_is_reported_without_the_secret(tmp_path):
    with buckets.run_rclone_s3(tmp_path) as options:
        pass
    assert "Check that the store is running" in probe_error(options)


@real_time
async def probe_error(options):
    """Return the text of the error of a probe; it must not contain the secret."""
    with pytest.raises(DestinationUnavailable) as caught:
        await ObjectStoreDestination("s3://bucket/x", options=options).probe()
    text = f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert "canary" not in text
    return text


@real_time
async def test_delivery_fails_without_a_trace_when_the_store_stops(tmp_path):
    with buckets.run_rclone_s3(tmp_path) as options:
        destination = ObjectStoreDestination("s3://bucket/x", options=options)
        await destination.probe()
    with pytest.raises(DestinationUnavailable):
        await deliver(destination, make_claim("t", ("", "a.txt")), b"data")
    assert not (tmp_path / "bucket" / "x" / "a.txt").exists()


def test_program_exports_to_a_bucket_and_reports_a_missing_one(run_cli, s3_servers, tmp_path):
    def write_config(bucket, server="moto"):
        public = {key: value for key, value in s3_servers[server].items() if "secret" not in key}
        options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in public.items())
        (tmp_path / "c.toml").write_text(
            f'[destinations.archive]\ntype = "object-store"\nurl = "s3://{bucket}/program"\n'
            f'options = {{ {options}, secret_access_key = {{ env = "MY_SECRET" }} }}\n'
        )

    with simulator("--tasks", "20", "--profile", "small") as aluma:
        common = ("-c", "c.toml", "--base-url", aluma.base_url)
        write_config("nowhere")
        done = run_cli("check", *common, MY_SECRET=buckets.SECRET)
        assert done.returncode == 69
        assert "s3://nowhere/program: 404 NoSuchBucket\n" in done.stdout
        write_config("bucket")
        done = run_cli("--once", *common, MY_SECRET=buckets.SECRET)
        assert done.returncode == 0, done.stderr
        write_config("bucket", "rclone")
        done = run_cli("check", *common, MY_SECRET=buckets.SECRET)
        assert "warn  environment: archive: the server ignores conditional writes" in done.stdout
    objects = buckets.s3_client(s3_servers["moto"]).list_objects_v2(Bucket="bucket", Prefix="program/")["Contents"]
    assert len([entry for entry in objects if entry["Key"].endswith(".pdf")]) == 20
