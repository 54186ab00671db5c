"""Requests through a proxy, and certificates of a private CA."""

import asyncio
import base64
import ssl
from contextlib import asynccontextmanager, suppress

import pytest
import trustme

from aluma_async.config import AlumaConfig, Config, Credentials
from aluma_async.config.tls import ssl_context
from aluma_async.exceptions import ConfigError, Unreachable
from aluma_async.wiring import open_client
from tests.support.http import JSON, raw_server

CANARY = "canary-90ab"
LISTING = JSON % (12, b'{"tasks":[]}')


@asynccontextmanager
async def proxy(password):
    """Run a proxy that requires a password; yields its port and the first lines of its requests."""
    requested = []
    expected = base64.b64encode(f"me:{password}".encode())

    async def pump(reader, writer):
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        requested.append(head.split(b"\r\n")[0].decode())
        if expected not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        host, _, port = requested[-1].split()[1].rpartition(":")
        upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], requested


@pytest.fixture
def private_ca(tmp_path):
    """A new CA: the TLS context of a server with its certificate, and the CA's file."""
    ca = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tls, tmp_path / "ca.pem"


async def list_tasks_of(port, **aluma):
    """List the tasks of the API on this port; ``aluma`` are the other keys of ``[aluma]``."""
    config = Config(aluma=AlumaConfig(base_url=f"https://127.0.0.1:{port}", **aluma))
    async with open_client(config, Credentials("i", "s")) as client:
        return [task async for tasks in client.list_pending() for task in tasks]


def test_proxy_tunnels_all_requests_and_the_token_is_sent_only_over_tls(private_ca):
    tls, ca_file = private_ca

    async def main():
        async with raw_server(lambda _: LISTING, tls) as (port, received), proxy(CANARY) as (proxy_port, requested):
            assert await list_tasks_of(port, ca_file=ca_file, proxy=f"http://me:{CANARY}@127.0.0.1:{proxy_port}") == []
            assert requested
            assert all(line.startswith(f"CONNECT 127.0.0.1:{port} ") for line in requested)
            assert received

    asyncio.run(main())


def test_proxy_error_does_not_contain_the_password(private_ca):
    """It is no ambiguous error, because no request was sent through the tunnel."""

    async def main():
        async with proxy("another") as (proxy_port, _):
            with pytest.raises(Unreachable, match="the proxy answered 407") as caught:
                await list_tasks_of(9, proxy=f"http://me:{CANARY}@127.0.0.1:{proxy_port}")
            assert CANARY not in str(caught.value) + caught.value.hint
            assert "proxy under [aluma]" in caught.value.hint

    asyncio.run(main())


def test_proxy_of_the_environment_is_ignored_and_reported_by_check(run_cli, monkeypatch):
    """Where documents are sent must not depend on the caller's shell."""
    done = run_cli("check", "--config-only", "-o", "out", HTTPS_PROXY=f"http://me:{CANARY}@127.0.0.1:9")
    assert done.returncode == 0
    assert "HTTPS_PROXY is set, but not used for Aluma" in done.stdout
    assert CANARY not in done.stdout


def test_ca_file_is_trusted_in_addition_to_the_system_authorities(private_ca, tmp_path):
    """Downloads may come from hosts with public certificates."""
    tls, ca_file = private_ca

    async def main():
        async with raw_server(lambda _: LISTING, tls) as (port, _):
            with pytest.raises(Unreachable) as caught:
                await list_tasks_of(port)
            assert "ca_file" in caught.value.hint
            assert await list_tasks_of(port, ca_file=ca_file) == []
        trusted = ssl_context(ca_file, "").cert_store_stats()["x509_ca"]
        assert trusted == ssl.create_default_context().cert_store_stats()["x509_ca"] + 1

    asyncio.run(main())


def test_ca_file_without_a_certificate_is_a_config_error(tmp_path):
    for name, content in (("missing.pem", None), ("empty.pem", ""), ("text.pem", "no certificate")):
        file = tmp_path / name
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigError, match=name) as caught:
            asyncio.run(list_tasks_of(9, ca_file=file))
        assert "PEM" in caught.value.hint


def test_connection_error_names_host_port_and_proxy():
    """Without the password of the proxy."""

    async def main():
        with pytest.raises(Unreachable, match=r"no connection to 127\.0\.0\.1:9 \("):
            await list_tasks_of(9)
        with pytest.raises(Unreachable, match=r"no connection to the proxy 127\.0\.0\.1:10 \(") as caught:
            await list_tasks_of(9, proxy=f"http://me:{CANARY}@127.0.0.1:10")
        assert CANARY not in str(caught.value)
        async with proxy("another") as (proxy_port, _):
            with pytest.raises(Unreachable, match=r"the proxy answered 407 to a connection to 127\.0\.0\.1:9$"):
                await list_tasks_of(9, proxy=f"http://me:{CANARY}@127.0.0.1:{proxy_port}")

    asyncio.run(main())
