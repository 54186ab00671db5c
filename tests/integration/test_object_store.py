"""What ``ObjectStoreDestination`` promises, against servers that honour conditional puts and one that does not."""

import hashlib
import json
import shutil
from collections import Counter
from contextlib import ExitStack
from io import BytesIO

import anyio
import obstore
import pytest

from aluma_async.config import Config
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.object_store import client as store_client
from aluma_async.destinations.object_store.destination import ObjectStoreDestination
from aluma_async.destinations.registry import open_destinations
from aluma_async.exceptions import ConfigError, DestinationError, DestinationUnavailable
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.policy.naming import as_object_key
from aluma_async.testing import check_destination, check_memory
from tests.support import buckets
from tests.support.processes import simulator


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with ExitStack() as stack:
        yield {
            "moto": stack.enter_context(buckets.moto()),
            "rclone": stack.enter_context(buckets.rclone(tmp_path_factory.mktemp("s3"))),
        }


@pytest.fixture
def prefix(request):
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def moto(servers):
    return servers["moto"]


def claim(task_id, *files, project="p1"):
    files = tuple(ExportFile(i, 0, folder, name, "url", url="/f") for i, (folder, name) in enumerate(files))
    return Claim(ExportTask(task_id, project_id=project), ExportSpec(files), 0.0)


async def chunks(*parts):
    for part in parts:
        yield part


async def deliver(destination, what, *data):
    async with destination.open(what) as delivery:
        for file, content in zip(what.spec.files, data, strict=True):
            await delivery.save(file, chunks(content))


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_it_keeps_the_contract_of_a_destination(servers, server, prefix):
    def visible():
        return buckets.objects(servers[server], prefix).values()

    def make():
        return ObjectStoreDestination(f"s3://bucket/{prefix}", options=servers[server])

    anyio.run(check_destination, make, visible)


@pytest.mark.skipif(not shutil.which("azurite-blob"), reason="azurite is not there: npm install -g azurite")
def test_it_keeps_the_contract_of_a_destination_in_azure(tmp_path):
    async def main(options):
        def visible():
            return buckets.objects(options, "x", "az").values()

        await check_destination(lambda: ObjectStoreDestination("az://bucket/x", options=options), visible)
        destination = ObjectStoreDestination("az://bucket/x", options=options)
        await destination.probe()
        assert destination.conditional
        await deliver(destination, claim("ü", ("a b", "ü.pdf")), b"x" * (store_client.MULTIPART_BYTES + 1))

    with buckets.azurite(tmp_path) as options:
        anyio.run(main, options)
        assert len(buckets.objects(options, "x", "az")["x/a b/ü.pdf"]) == store_client.MULTIPART_BYTES + 1


@pytest.mark.parametrize(("server", "honoured"), [("moto", True), ("rclone", False)])
def test_the_probe_finds_out_whether_conditions_are_honoured(servers, server, honoured, prefix):
    """It says so when the mark is new, and when it was there."""
    for _ in range(2):
        destination = ObjectStoreDestination(f"s3://bucket/{prefix}", options=servers[server])
        anyio.run(destination.probe)
        assert destination.conditional is honoured
        assert bool(destination.warning) is not honoured


def test_an_object_tells_its_type_its_task_and_its_digest(moto, prefix):
    destination = ObjectStoreDestination(f"s3://bucket/{prefix}", options=moto)
    anyio.run(deliver, destination, claim("t/1 ü", ("a b", "1.pdf"), project="pü"), b"pdf")
    found = buckets.client(moto).head_object(Bucket="bucket", Key=f"{prefix}/a b/1.pdf")
    assert found["ContentType"] == "application/pdf"
    assert found["Metadata"]["task"] == "t/1 %C3%BC"
    assert found["Metadata"]["project"] == "p%C3%BC"
    assert found["Metadata"]["sha256"] == hashlib.sha256(b"pdf").hexdigest()


@pytest.mark.parametrize("server", ["moto", "rclone"])
@pytest.mark.parametrize(
    ("on_conflict", "left"), [("keep-both", [b"one", b"two"]), ("overwrite", [b"two"]), ("fail", [b"one"])]
)
def test_a_name_that_another_task_has(servers, server, on_conflict, left, prefix):
    async def main():
        destination = ObjectStoreDestination(f"s3://bucket/{prefix}", options=servers[server], on_conflict=on_conflict)
        await deliver(destination, claim("one", ("", "a.txt")), b"one")
        try:
            await deliver(destination, claim("two", ("", "a.txt"), ("", "b.txt")), b"two", b"two")
        except DestinationError as error:
            assert on_conflict == "fail"
            assert "file 0: another file already has this name" in str(error)
            return
        await deliver(destination, claim("two", ("", "a.txt"), ("", "b.txt")), b"two", b"two")

    anyio.run(main)
    expected = left if on_conflict == "fail" else [*left, b"two"]
    assert Counter(buckets.objects(servers[server], prefix).values()) == Counter(expected)


def test_many_tasks_of_several_exporters_that_want_one_name_are_all_kept(moto, prefix):
    async def main():
        exporters = [ObjectStoreDestination(f"s3://bucket/{prefix}", options=moto) for _ in range(3)]
        async with anyio.create_task_group() as group:
            for number in range(12):
                what = claim(f"t{number}", ("in", "same.txt"))
                group.start_soon(deliver, exporters[number % 3], what, str(number).encode())

    anyio.run(main)
    assert sorted(map(int, buckets.objects(moto, prefix).values())) == list(range(12))


def test_an_object_that_somebody_else_put_there_is_left_alone(moto, prefix):
    buckets.client(moto).put_object(Bucket="bucket", Key=f"{prefix}/a.txt", Body=b"foreign")
    destination = ObjectStoreDestination(f"s3://bucket/{prefix}", options=moto)
    anyio.run(deliver, destination, claim("t", ("", "a.txt")), b"ours")
    found = buckets.objects(moto, prefix)
    assert found.pop(f"{prefix}/a.txt") == b"foreign"
    assert list(found.values()) == [b"ours"]


def test_if_one_object_cannot_be_put_the_new_ones_are_deleted_again(moto, prefix):
    """What was there before, and is replaced, stays."""

    async def main():
        destination = ObjectStoreDestination(f"s3://bucket/{prefix}", options=moto, on_conflict="fail")
        await deliver(destination, claim("other", ("", "taken.txt")), b"other")
        await deliver(destination, claim("t", ("", "a.txt")), b"before")
        files = [("", "a.txt"), *(("", f"{number}.txt") for number in range(20)), ("", "taken.txt")]
        with pytest.raises(DestinationError, match="another file already has this name"):
            await deliver(destination, claim("t", *files), *[b"new"] * len(files))

    anyio.run(main)
    assert set(buckets.objects(moto, prefix)) == {f"{prefix}/taken.txt", f"{prefix}/a.txt"}


def big(size, read=lambda: None):
    class Watched(BytesIO):
        def read(self, count=-1):
            read()
            return super().read(count)

    return SpooledFile(Watched(b"x" * size), size, "0" * 64)


def store(options, prefix):
    return store_client.open_store(f"s3://bucket/{prefix}", options)


async def yes():
    return True


async def no():
    return False


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_big_upload_that_is_cancelled_leaves_no_part(moto, prefix, at):
    reads = 0

    async def main():
        def read():
            nonlocal reads
            reads += 1
            if reads == at:
                anyio.from_thread.run_sync(scope.cancel)

        with anyio.CancelScope() as scope:
            await store_client.put_multipart(
                store(moto, prefix), "big", big(2 * store_client.MULTIPART_BYTES + 1, read), {}, yes
            )
        assert scope.cancelled_caught

    anyio.run(main)
    assert reads <= at + 1, "it stops soon"
    assert not buckets.objects(moto, prefix)
    assert not buckets.client(moto).list_multipart_uploads(Bucket="bucket").get("Uploads")


def test_a_big_upload_whose_name_was_taken_meanwhile_is_given_up(moto, prefix):
    async def main():
        assert not await store_client.put_multipart(
            store(moto, prefix), "big", big(store_client.MULTIPART_BYTES + 1), {}, no
        )

    anyio.run(main)
    assert not buckets.objects(moto, prefix)
    assert not buckets.client(moto).list_multipart_uploads(Bucket="bucket").get("Uploads")


def test_a_big_upload_whose_file_cannot_be_read_leaves_no_part(moto, prefix):
    def broken():
        raise OSError("bad sector")

    async def main():
        with pytest.raises(OSError, match="bad sector"):
            await store_client.put_multipart(
                store(moto, prefix), "big", big(store_client.MULTIPART_BYTES + 1, broken), {}, yes
            )

    anyio.run(main)
    assert not buckets.objects(moto, prefix)
    assert not buckets.client(moto).list_multipart_uploads(Bucket="bucket").get("Uploads")


def test_a_missing_bucket_is_told_and_when_it_is_there_it_goes_on(moto):
    async def main():
        destination = ObjectStoreDestination("s3://later/x", options=moto)
        what = claim("t", ("", "a.txt"))
        with pytest.raises(DestinationUnavailable, match="s3://later/x: 404 NoSuchBucket") as caught:
            await destination.probe()
        assert "bucket" in caught.value.hint
        with pytest.raises(DestinationUnavailable):
            await deliver(destination, what, b"data")
        buckets.client(moto).create_bucket(Bucket="later")
        await deliver(destination, what, b"data")

    anyio.run(main)
    assert buckets.client(moto).get_object(Bucket="later", Key="x/a.txt")["Body"].read() == b"data"


def test_bad_keys_and_a_server_that_is_away_are_told_without_the_secret(servers, tmp_path):
    async def probe(options):
        with pytest.raises(DestinationUnavailable) as caught:
            await ObjectStoreDestination("s3://bucket/x", options=options).probe()
        told = f"{caught.value} {caught.value.hint} {caught.value!r}"
        assert "canary" not in told
        return told

    assert "403" in anyio.run(probe, {**servers["rclone"], "secret_access_key": "canary-wrong"})
    with buckets.rclone(tmp_path) as gone:
        pass
    assert "Check that the store is running" in anyio.run(probe, gone)


def test_a_server_that_goes_away_on_the_way_costs_nothing(tmp_path):
    async def main():
        with buckets.rclone(tmp_path) as options:
            destination = ObjectStoreDestination("s3://bucket/x", options=options)
            await destination.probe()
        with pytest.raises(DestinationUnavailable):
            await deliver(destination, claim("t", ("", "a.txt")), b"data")

    anyio.run(main)
    assert not (tmp_path / "bucket" / "x" / "a.txt").exists()


def test_a_file_of_200_mb_takes_less_than_150_mb(servers):
    options = servers["rclone"]
    anyio.run(check_memory, ObjectStoreDestination("s3://bucket/memory", options=options))
    assert (
        obstore.head(store_client.open_store("s3://bucket", options), "memory/a folder/big.bin")["size"] > 199_000_000
    )


def test_whenever_a_delivery_of_big_files_is_cancelled_it_leaves_no_trace_or_is_whole(moto, prefix):
    what = claim("t", *(("in", f"{number}.txt") for number in range(3)))

    async def attempt(steps):
        destination = ObjectStoreDestination(f"s3://bucket/{prefix}", options=moto)

        async def cancel():
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            await deliver(destination, what, *[b"x" * (store_client.MULTIPART_BYTES + 1)] * 3)
            group.cancel_scope.cancel()
            return True
        return False

    steps, whole = 1, False
    while not whole:
        whole = anyio.run(attempt, steps)
        assert len(buckets.objects(moto, prefix)) == (3 if whole else 0)
        assert not buckets.client(moto).list_multipart_uploads(Bucket="bucket").get("Uploads")
        steps *= 2


def test_the_program_exports_to_a_bucket_and_says_if_there_is_none(run_cli, servers, tmp_path):
    def config(bucket, server="moto"):
        given = servers[server].items()
        options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in given if "secret" not in key)
        (tmp_path / "c.toml").write_text(
            f'[destinations.archive]\ntype = "object-store"\nurl = "s3://{bucket}/program"\n'
            f'options = {{ {options}, secret_access_key = {{ env = "MY_SECRET" }} }}\n'
        )

    with simulator("--tasks", "20", "--profile", "small") as aluma:
        common = ("-c", "c.toml", "--base-url", aluma.base_url)
        config("nowhere")
        done = run_cli("check", *common, MY_SECRET=buckets.SECRET)
        assert done.returncode == 69
        assert "s3://nowhere/program: 404 NoSuchBucket\n" in done.stdout
        config("bucket")
        done = run_cli("--once", *common, MY_SECRET=buckets.SECRET)
        assert done.returncode == 0, done.stderr
        config("bucket", "rclone")
        done = run_cli("check", *common, MY_SECRET=buckets.SECRET)
        assert "warn  environment: archive: the server ignores conditional puts" in done.stdout
    found = buckets.client(servers["moto"]).list_objects_v2(Bucket="bucket", Prefix="program/")["Contents"]
    assert len([each for each in found if each["Key"].endswith(".pdf")]) == 20


def test_a_name_that_is_too_long_for_a_bucket_is_cut_the_same_way_each_time(moto, prefix):
    long = "/".join(["ä" * 120] * 12)
    key = as_object_key((*long.split("/"), "a.txt"), 1000)
    assert len(key.encode()) <= 1000
    assert key.endswith("/a.txt")
    assert key != as_object_key((*long.split("/"), "ä", "a.txt"), 1000)
    assert as_object_key(("a", "b.txt"), 1000) == "a/b.txt"
    destination = ObjectStoreDestination(f"s3://bucket/{prefix}", options=moto)
    for _ in range(2):
        anyio.run(deliver, destination, claim("t", (long, "a.txt")), b"deep")
    assert list(buckets.objects(moto, prefix).values()) == [b"deep"]


def config(text):
    return Config.from_toml(f"[destinations.a]\ntype = 'object-store'\nurl = 's3://bucket/x'\n{text}", "c.toml")


def opened(text):
    async def main():
        settings = config(text)
        async with open_destinations(settings.destinations, settings.state_folder()):
            pass

    anyio.run(main)


def test_options_come_from_the_file_the_environment_or_a_secret_file(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("canary-1\n")
    secret.chmod(0o600)
    text = (
        f"options = {{ region = 'x', secret_access_key = {{ file = '{secret}' }}, access_key_id = {{ env = 'ID' }},"
        " allow_http = true }"
    )
    monkeypatch.setenv("ID", "canary-2")
    settings = config(text).destinations["a"]
    assert settings.read_options({"ID": "canary-2"}) == {
        "region": "x",
        "secret_access_key": "canary-1",
        "access_key_id": "canary-2",
        "allow_http": True,
    }
    assert "canary" not in repr(settings) + settings.description
    opened(text)
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        opened(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("options = { secret_access_key = ['canary'] }", "options = '…'"),
        ("options = { zzz = 'canary' }", r"\[destinations.a\] options: Configuration key: 'zzz' is not valid"),
        ("options = { region = { env = 'NOT_SET_ANYWHERE' } }", "options.region: NOT_SET_ANYWHERE is not set"),
        ("options = { region = { fil = 'canary' } }", "options.region: neither a value nor where to find it"),
    ],
)
def test_mistakes_in_the_options_are_told_without_their_values(text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        opened(text)
    assert "canary" not in f"{caught.value} {caught.value.hint}"


def test_a_url_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="url: 'ftp' is not supported") as caught:
        ObjectStoreDestination("ftp://canary:canary@x")
    assert "canary" not in f"{caught.value} {caught.value.hint}"
