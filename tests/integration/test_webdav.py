"""What ``WebDavDestination`` promises, against ``rclone serve webdav``, which keeps its files in a folder."""

import os
import ssl
import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager, suppress

import anyio
import pytest
import trustme
from aiohttp import web

from aluma_async.config import Config
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.registry import open_destinations
from aluma_async.destinations.webdav.client import WebDavClient, open_session
from aluma_async.destinations.webdav.destination import WebDavDestination
from aluma_async.events import ClaimingPaused, TaskCompleted
from aluma_async.exceptions import ConfigError, DestinationError, DestinationUnavailable
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.pipeline.exporter import Exporter
from aluma_async.policy.backoff import Backoff
from aluma_async.testing import SimulatedAluma, SimulatedSource, check_destination, check_memory
from tests.support import buckets

PASSWORD = "canary-password"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dav").mkdir()
    return tmp_path / "dav"


@pytest.fixture
def url(folder):
    with buckets.serving("webdav", folder) as address:
        yield f"{address}/export"


def tree(folder):
    """The files that are not our own, by path."""
    root = folder / "export"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != ".aluma-async"
    }


def claim(task_id, *files):
    files = tuple(ExportFile(i, 0, where, name, "url", url="/f") for i, (where, name) in enumerate(files))
    return Claim(ExportTask(task_id), ExportSpec(files), 0.0)


async def chunks(*parts):
    for part in parts:
        yield part


async def deliver(destination, what, *data):
    async with destination.open(what) as delivery:
        for file, content in zip(what.spec.files, data, strict=True):
            await delivery.save(file, chunks(content))


@asynccontextmanager
async def opened(url, **options):
    async with open_session({}) as session:
        yield WebDavDestination(session, url, **options)


def test_it_keeps_the_contract_of_a_destination(url, folder):
    async def main():
        async with open_session({}) as session:
            await check_destination(lambda: WebDavDestination(session, url), lambda: tree(folder).values())
            await check_memory(WebDavDestination(session, url))

    anyio.run(main)
    assert not list((folder / "export" / ".aluma-async" / "staging").iterdir()), "nothing is left on its way"


def test_names_come_through_as_they_are_and_stay_below_the_root(url, folder):
    names = [("a b/ü", "100% #1?.pdf"), ("../..", "out.txt"), ("", ".aluma-async"), ("x", "a%2Fb.txt")]

    async def main():
        async with opened(url) as destination:
            await deliver(destination, claim("t", *names), *[name.encode() for _, name in names])

    anyio.run(main)
    assert set(tree(folder)) == {"a b/ü/100% #1_.pdf", "out.txt", "_.aluma-async", "x/a%2Fb.txt"}
    assert not list(folder.parent.glob("out*"))


@pytest.mark.parametrize(
    ("on_conflict", "left"), [("keep-both", [b"one", b"two"]), ("overwrite", [b"two"]), ("fail", [b"one"])]
)
def test_a_name_that_another_task_has(url, folder, on_conflict, left):
    async def main():
        async with opened(url, on_conflict=on_conflict) as destination:
            await deliver(destination, claim("one", ("in", "a.txt")), b"one")
            for _ in range(2):
                try:
                    await deliver(destination, claim("two", ("in", "b.txt"), ("in", "a.txt")), b"two", b"two")
                except DestinationError as error:
                    assert on_conflict == "fail"
                    assert "file 1: another file already has this name" in str(error)

    anyio.run(main)
    assert Counter(tree(folder).values()) == Counter(left if on_conflict == "fail" else [*left, b"two"])


def test_a_file_that_somebody_else_put_there_is_left_alone(url, folder):
    (folder / "export").mkdir()
    (folder / "export" / "a.txt").write_bytes(b"foreign")

    async def main():
        async with opened(url) as destination:
            await deliver(destination, claim("t", ("", "a.txt")), b"ours")

    anyio.run(main)
    found = tree(folder)
    assert found.pop("a.txt") == b"foreign"
    assert list(found.values()) == [b"ours"]


def test_where_a_file_has_the_name_of_a_folder_the_folder_gets_another(url, folder):
    async def main():
        async with opened(url) as destination:
            await deliver(destination, claim("one", ("", "a")), b"file")
            for _ in range(2):
                await deliver(destination, claim("two", ("a", "b.txt")), b"below")

    anyio.run(main)
    assert len(tree(folder)) == 2
    assert tree(folder)["a"] == b"file"


def test_what_a_crash_left_on_its_way_is_removed_a_day_later(url, folder):
    staging = folder / "export" / ".aluma-async" / "staging"
    staging.mkdir(parents=True)
    for name, age in (("0123456789abcdef-1-0.part", 90_000), ("0123456789abcdef-2-0.part", 60), ("foreign", 90_000)):
        (staging / name).write_bytes(b"left")
        os.utime(staging / name, (time.time() - age,) * 2)

    async def main():
        async with opened(url) as destination:
            await destination.probe()

    anyio.run(main)
    assert {path.name for path in staging.iterdir()} == {"0123456789abcdef-2-0.part", "foreign"}


@pytest.mark.parametrize("on_conflict", ["keep-both", "overwrite"])
def test_a_folder_is_never_replaced_by_a_file(url, folder, on_conflict):
    """On such a server that would be to delete all that is in it."""

    async def main():
        async with opened(url, on_conflict=on_conflict) as destination:
            await deliver(destination, claim("one", ("a", "x.txt")), b"in a folder")
            await deliver(destination, claim("two", ("", "a"), ("", "b")), b"two", b"two")
            await destination._client.delete(("b",))  # whoever takes the files from there
            await deliver(destination, claim("one", ("a", "x.txt"), ("b", "y.txt")), b"in a folder", b"in a folder")
            await deliver(destination, claim("two", ("", "a"), ("", "b")), b"two", b"two")

    anyio.run(main)
    found = tree(folder)
    assert found.pop("a/x.txt") == found.pop("b/y.txt") == b"in a folder"
    assert list(found.values()) == [b"two", b"two"]


def test_a_folder_that_is_gone_is_made_again_by_the_next_attempt(url, folder):
    async def main():
        async with opened(url) as destination:
            await deliver(destination, claim("one", ("in/deep", "a.txt")), b"one")
            await destination._client._send("DELETE", ("in", ""), (204,))
            with suppress(DestinationError):  # rclone makes it by itself
                await deliver(destination, claim("two", ("in/deep", "b.txt")), b"two")
            await deliver(destination, claim("two", ("in/deep", "b.txt")), b"two")

    anyio.run(main)
    assert tree(folder) == {"in/deep/b.txt": b"two"}


@pytest.mark.parametrize(
    ("status", "path", "kind"),
    [
        (403, (".aluma-async", "x"), DestinationUnavailable),
        (403, ("name", "x"), DestinationError),
        (507, ("name", "x"), DestinationUnavailable),
        (302, (".aluma-async", ""), DestinationUnavailable),
        (400, ("name", "x"), DestinationError),
        (503, ("name", "x"), DestinationUnavailable),
    ],
)
def test_an_answer_that_says_no_is_told_as_everybodys_or_as_one_files(status, path, kind):
    async def answer(request):
        return web.Response(status=status, text="canary")

    async def main():
        server = web.ServerRunner(web.Server(answer))
        await server.setup()
        site = web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        async with open_session({}) as session:
            with pytest.raises(DestinationError, match=f"PUT: {status} ") as caught:
                await WebDavClient(session, f"http://127.0.0.1:{server.addresses[0][1]}/dav").put(
                    path, SpooledFile.from_bytes(b"x")
                )
        await server.cleanup()
        return caught.value

    error = anyio.run(main)
    assert type(error) is kind
    assert error.hint
    assert "canary" not in str(error)


def test_many_tasks_that_want_one_name_are_all_kept(url, folder):
    async def main():
        async with opened(url) as destination, anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(deliver, destination, claim(f"t{number}", ("in", "same.txt")), str(number).encode())

    anyio.run(main)
    assert sorted(map(int, tree(folder).values())) == list(range(12))


def test_a_big_file_arrives_whole(url, folder):
    data = bytes(range(256)) * 30_000

    async def main():
        async with opened(url) as destination:
            await deliver(destination, claim("t", ("", "big.bin")), data)

    anyio.run(main)
    assert tree(folder) == {"big.bin": data}


def config(text):
    return Config.from_toml(f"[destinations.a]\ntype = 'webdav'\n{text}", "c.toml")


async def probe(text):
    settings = config(text)
    async with open_destinations(settings.destinations, settings.state_folder()) as destinations:
        await destinations["a"].probe()


def secret(tmp_path, text):
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_user_and_password_are_sent_and_told_of_if_they_are_refused(folder, tmp_path):
    with buckets.serving("webdav", folder, "--user", "me", "--pass", PASSWORD) as address:
        login = f"url = '{address}/export'\nusername = 'me'\npassword_file = '{secret(tmp_path, PASSWORD)}'"
        anyio.run(probe, login)
        secret(tmp_path, "canary-wrong")
        with pytest.raises(DestinationUnavailable, match="401") as caught:
            anyio.run(probe, login)
    assert "password" in caught.value.hint
    assert "canary" not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(DestinationUnavailable, match="MKCOL: Client") as caught:
        anyio.run(probe, login)
    assert "Check that the WebDAV server is running" in caught.value.hint


def test_a_bearer_token_is_sent_over_tls_and_the_authority_may_be_ones_own(tmp_path):
    seen = []

    async def answer(request):
        seen.append((request.method, request.headers["Authorization"]))
        return web.Response(status=201)

    async def main():
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        server = web.ServerRunner(web.Server(answer))
        await server.setup()
        site = web.TCPSite(server, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        url = f"https://127.0.0.1:{server.addresses[0][1]}/dav"
        login = f"url = '{url}'\ntoken_file = '{secret(tmp_path, 'canary-token')}'\n"
        await probe(login + f"ca_file = '{tmp_path / 'ca.pem'}'")
        with pytest.raises(DestinationUnavailable, match="Certificate"):
            await probe(login)
        await server.cleanup()

    anyio.run(main)
    assert seen[0] == ("MKCOL", "Bearer canary-token")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("url = 'http://dav.example/x'", "unencrypted"),
        ("url = 'https://me:canary@dav.example/x'", "holds a user name or a password"),
        ("url = ['https://me:canary@dav.example/x']", "url = '…'"),
        ("url = 'https://dav.example/x'\nusername = 'me'", "go together"),
        ("url = 'https://dav.example/x'\npasword_file = 'x'", "has no key 'pasword_file'"),
    ],
)
def test_mistakes_are_told_without_secrets(text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        config(text)
    assert "canary" not in f"{caught.value} {caught.value.hint}"


def test_http_to_another_host_can_be_allowed():
    assert config("url = 'http://dav.example/x'\nallow_insecure = true").destinations["a"].allow_insecure


def test_a_server_that_goes_away_on_the_way_costs_nothing_and_it_goes_on(folder):
    what = claim("t", ("", "a.txt"), ("", "b.txt"))

    async def broken(server, address):
        async with opened(f"{address}/export") as destination:
            await destination.probe()
            block = destination.open(what)
            delivery = await block.__aenter__()
            for file in what.spec.files:
                await delivery.save(file, chunks(b"data"))
            server.close()
            with pytest.raises(DestinationUnavailable, match="PUT: "):
                await block.__aexit__(None, None, None)

    async def whole(address):
        async with opened(f"{address}/export") as destination:
            await deliver(destination, what, b"data", b"data")

    with ExitStack() as server:
        anyio.run(broken, server, server.enter_context(buckets.serving("webdav", folder)))
    assert not tree(folder)
    with buckets.serving("webdav", folder) as address:
        anyio.run(whole, address)
    assert tree(folder) == {"a.txt": b"data", "b.txt": b"data"}


def test_an_exporter_pauses_while_its_server_is_away_and_goes_on_by_itself(folder):
    """No task is exported twice under two names, and none is missing."""
    aluma = SimulatedAluma(tasks=60, profile="small", now=time.monotonic)
    expected = [data for task_id in aluma.ids() for *_, data in aluma.expected(task_id)]
    paused = []

    async def main(server):
        address = server.enter_context(buckets.serving("webdav", folder))
        completed = 0

        def on_event(event):
            nonlocal completed
            completed += isinstance(event, TaskCompleted)
            if isinstance(event, TaskCompleted) and completed == 10:
                server.close()
            if completed == 60:
                exporter.stop()
            if isinstance(event, ClaimingPaused) and not paused:
                paused.append(event)
                port = address.rpartition(":")[2]
                server.enter_context(buckets.serving("webdav", folder, port=port))

        async with opened(f"{address}/export") as destination:
            exporter = Exporter(
                SimulatedSource(aluma),
                destination,
                workers=8,
                cooldown=Backoff(0.05, 0.1),
                polling=Backoff(0.01, 0.1),
                on_event=on_event,
            )
            await exporter.run()

    with ExitStack() as server:
        anyio.run(main, server)
    assert paused
    assert Counter(tree(folder).values()) == Counter(expected)


def test_if_one_file_has_no_place_the_new_ones_are_deleted_again(url, folder):
    async def main():
        async with opened(url, on_conflict="fail") as destination:
            await deliver(destination, claim("other", ("", "taken.txt")), b"other")
            files = [*(("in", f"{number}.txt") for number in range(10)), ("", "taken.txt")]
            with pytest.raises(DestinationError, match="file 10: another file already has this name"):
                await deliver(destination, claim("t", *files), *[b"new"] * len(files))

    anyio.run(main)
    assert tree(folder) == {"taken.txt": b"other"}
    left = [path for path in (folder / "export" / ".aluma-async").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in left] == [b"other"], "the owner of taken.txt, and nothing else"
