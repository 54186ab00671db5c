"""A proxy between us and Aluma: used where it is named, and its password never told; an authority of one's own."""

import asyncio
import base64
import ssl
from contextlib import asynccontextmanager, suppress

import pytest
import trustme

from aluma_async.config import AlumaConfig, Config, Credentials
from aluma_async.exceptions import ConfigError, Unreachable
from aluma_async.wiring import open_client
from tests.support.http import JSON, raw_server

CANARY = "canary-90ab"
LISTING = JSON % (12, b'{"tasks":[]}')


@asynccontextmanager
async def proxy(password):
    """A proxy that tunnels for those who know the password; yield its port and what it was asked for."""
    asked = []
    wanted = base64.b64encode(f"me:{password}".encode())

    async def pump(reader, writer):
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0].decode())
        if wanted not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        host, _, port = asked[-1].split()[1].rpartition(":")
        there = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], asked


@pytest.fixture
def authority(tmp_path):
    """Whom nobody trusts yet: its server side, and the file that names it."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tls, tmp_path / "ca.pem"


async def listed(port, **aluma):
    config = Config(aluma=AlumaConfig(base_url=f"https://127.0.0.1:{port}", **aluma))
    async with open_client(config, Credentials("i", "s")) as client:
        return [task async for tasks in client.list_pending() for task in tasks]


def test_all_requests_go_through_the_proxy_that_is_named_and_the_token_only_through_tls(authority):
    tls, ca_file = authority

    async def main():
        async with raw_server(lambda _: LISTING, tls) as (port, seen), proxy(CANARY) as (door, asked):
            assert await listed(port, ca_file=ca_file, proxy=f"http://me:{CANARY}@127.0.0.1:{door}") == []
            assert asked
            assert all(line.startswith(f"CONNECT 127.0.0.1:{port} ") for line in asked)
            assert seen

    asyncio.run(main())


def test_a_proxy_that_refuses_is_told_without_its_password(authority):
    """Nothing has gone through it, so nothing can have been carried out."""

    async def main():
        async with proxy("another") as (door, _):
            with pytest.raises(Unreachable, match="the proxy answered 407") as caught:
                await listed(9, proxy=f"http://me:{CANARY}@127.0.0.1:{door}")
            assert CANARY not in str(caught.value) + caught.value.hint
            assert "proxy under [aluma]" in caught.value.hint

    asyncio.run(main())


def test_a_proxy_of_the_environment_is_not_used_and_check_says_so(run_cli, monkeypatch):
    """What a shell happens to have set must not decide where documents travel."""
    done = run_cli("check", "--config-only", "-o", "out", HTTPS_PROXY=f"http://me:{CANARY}@127.0.0.1:9")
    assert done.returncode == 0
    assert "HTTPS_PROXY is set, but not used for Aluma" in done.stdout
    assert CANARY not in done.stdout


def test_an_authority_of_ones_own_stands_beside_those_of_the_system(authority, tmp_path):
    """Whoever adds one keeps the others: a download may come from elsewhere."""
    tls, ca_file = authority

    async def main():
        async with raw_server(lambda _: LISTING, tls) as (port, _):
            with pytest.raises(Unreachable) as caught:
                await listed(port)
            assert "ca_file" in caught.value.hint
            assert await listed(port, ca_file=ca_file) == []
        config = Config(aluma=AlumaConfig(ca_file=ca_file))
        async with open_client(config, Credentials("i", "s")) as client:
            trusted = client._transport.session.connector._ssl.cert_store_stats()["x509_ca"]
            assert trusted == ssl.create_default_context().cert_store_stats()["x509_ca"] + 1

    asyncio.run(main())


def test_a_ca_file_that_holds_none_is_told(tmp_path):
    for name, content in (("missing.pem", None), ("empty.pem", ""), ("text.pem", "no certificate")):
        file = tmp_path / name
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigError, match=name) as caught:
            asyncio.run(listed(9, ca_file=file))
        assert "PEM" in caught.value.hint
