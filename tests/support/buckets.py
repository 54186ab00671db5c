"""Object stores and WebDAV servers for tests.

moto honours conditional writes, rclone does not; both are installed from wheels. Azurite is an npm package.
"""

import hashlib
import hmac
import logging
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from base64 import b64decode, b64encode
from contextlib import asynccontextmanager, contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote
from xml.sax.saxutils import unescape

import boto3
import obstore
from aiohttp import web
from moto.server import ThreadedMotoServer
from obstore.store import from_url

from tests.support.http import http_server

KEY, SECRET = "AKIAEXAMPLEKEY", "canary-secret-7c1"
# The account of every Azure Storage emulator.
AZURE_NAME = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
RCLONE = str(Path(sys.executable).parent / "rclone")


@contextmanager
def run_moto():
    """Yield obstore options for an S3 server in this process with the empty bucket ``bucket``."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        options = s3_options(f"http://{host}:{port}")
        s3_client(options).create_bucket(Bucket="bucket")
        yield options
    finally:
        server.stop()


@contextmanager
def run_rclone_s3(folder):
    """Yield obstore options for an S3 server that stores the bucket ``bucket`` in a folder."""
    (folder / "bucket").mkdir(parents=True, exist_ok=True)
    with run_rclone("s3", "--auth-key", f"{KEY},{SECRET}", folder) as url:
        yield s3_options(url)


@contextmanager
def run_rclone(kind, *arguments, port=0):
    """Run ``rclone serve`` of some kind and yield its URL."""
    command = [RCLONE, "serve", kind, "--addr", f"127.0.0.1:{port}", "--config", "", *map(str, arguments)]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        _wait_for_url(process, process.stderr, r"(http://127\.0\.0\.1:\d+)") as url,
    ):
        yield url


@contextmanager
def run_azurite(folder):
    """Yield obstore options for Microsoft's emulator with the empty container ``bucket``."""
    command = [shutil.which("azurite-blob"), "--blobPort", "0", "--skipApiVersionCheck", "--location", folder]
    with (
        subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process,
        _wait_for_url(process, process.stdout, r"listens on (http://127\.0\.0\.1:\d+)") as url,
    ):
        endpoint = f"{url}/{AZURE_NAME}"
        create_container(endpoint)
        yield {"account_name": AZURE_NAME, "account_key": AZURE_KEY, "endpoint": endpoint, "allow_http": True}


@contextmanager
def _wait_for_url(process, output, pattern):
    """Yield the URL that a server prints; kill the server at the end."""
    url = next(match[1] for line in output if (match := re.search(pattern, line)))
    reader = threading.Thread(target=output.read)  # because the server would block on a full pipe
    reader.start()
    try:
        yield url
    finally:
        process.kill()
        reader.join()


def create_container(endpoint):
    """Create the container with a signed request (Shared Key), because obstore cannot create containers."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = "PUT" + "\n" * 12 + f"{signed}/{AZURE_NAME}/{AZURE_NAME}/bucket\nrestype:container"
    signature = b64encode(hmac.digest(b64decode(AZURE_KEY), text.encode(), "sha256")).decode()
    headers["Authorization"] = f"SharedKey {AZURE_NAME}:{signature}"
    url = f"{endpoint}/bucket?restype=container"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)):
        pass


def s3_options(endpoint):
    return {
        "endpoint": endpoint,
        "access_key_id": KEY,
        "secret_access_key": SECRET,
        "region": "us-east-1",
        "allow_http": True,
    }


def s3_client(options):
    """Return Amazon's own client, as an independent check."""
    return boto3.client(
        "s3",
        endpoint_url=options["endpoint"],
        region_name=options["region"],
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )


def read_objects(options, prefix="", scheme="s3"):
    """Return the content of all exported objects by key."""
    config = {key: value for key, value in options.items() if key != "allow_http"}
    store = from_url(f"{scheme}://bucket", config=config, client_options={"allow_http": True})
    keys = [entry["path"] for batch in obstore.list(store, prefix=prefix or None) for entry in batch]
    internal = f"{prefix}/.aluma-async/".lstrip("/")
    return {key: bytes(obstore.get(store, key).bytes()) for key in keys if not key.startswith(internal)}


class SimulatedS3:
    """An S3 server in memory, without multipart uploads in parallel. One ``lie`` may be set at any time.

    * ``stores nothing``: each put is confirmed, and no object exists;
    * ``page for all``, ``page for reads``: 200 and a web page for each request, or for each GET and HEAD;
    * ``page for puts``: 200 and a web page with an ETag, without an effect;
    * ``truncates``, ``empties``: half of the object is stored, or nothing;
    * ``no sizes``: responses do not contain the size of an object;
    * ``no ETags``: responses to reads do not contain the version of an object;
    * ``loses metadata``; ``ignores conditions``; ``conditions: 501``: the status of each conditional put;
    * ``updates: 501``: the status of puts on condition that the object has a certain version.
    """

    def __init__(self, lie=""):
        self.lie = lie
        self.objects, self._uploads = {}, {}
        self.requests = []
        self.options = {}
        self.hook = None
        """An async function that is called with each request and its path, and may return another response."""

    @property
    def exported(self):
        """The content of all exported objects by key."""
        return {
            key.removeprefix("/bucket/"): content
            for key, (content, _) in self.objects.items()
            if "/.aluma-async/" not in key
        }

    async def __call__(self, request):
        """Handle a request."""
        content = await request.content.read()
        key, query = unquote(request.rel_url.raw_path), request.query
        self.requests.append((request.method, key))
        if self.hook and (response := await self.hook(request, key)):
            return response
        reads = request.method in ("GET", "HEAD")
        if self.lie == "page for all" or (reads and self.lie == "page for reads"):
            return web.Response(text="<html>log in</html>", content_type="text/html")
        if not reads and "delete" not in query and self.lie == "page for puts":
            return web.Response(text="<html>log in</html>", content_type="text/html", headers={"ETag": '"x"'})
        if reads:
            return await self._read(request, key)
        if "delete" in query:
            for deleted in re.findall(r"<Key>(.*?)</Key>", content.decode()):
                self.objects.pop(f"{key}/{unescape(deleted)}", None)
            return _xml("DeleteResult", "")
        if "partNumber" in query:
            self._uploads[key][1][int(query["partNumber"])] = content
            return web.Response(headers={"ETag": '"part"'})
        if "uploads" in query:
            self._uploads[key] = _metadata(request), {}
            return _xml("InitiateMultipartUploadResult", "<UploadId>1</UploadId>")
        if "uploadId" in query:
            metadata, parts = self._uploads.pop(key)
            etag = self._store(key, b"".join(part for _, part in sorted(parts.items())), metadata)
            return _xml("CompleteMultipartUploadResult", f"<ETag>{etag}</ETag>")
        return self._put(request, key, content)

    def _put(self, request, key, content):
        none_match, match = request.headers.get("If-None-Match"), request.headers.get("If-Match")
        about, _, status = self.lie.partition(": ")
        if (about == "conditions" and (none_match or match)) or (about == "updates" and match):
            return web.Response(status=int(status))
        if self.lie != "ignores conditions":
            etag = _etag(self.objects[key][0]) if key in self.objects else None
            if (none_match and etag) or (match and match != etag):
                return web.Response(status=412)
        return web.Response(headers={"ETag": self._store(key, content, _metadata(request))})

    def _store(self, key, content, metadata):
        stored = {"truncates": content[: len(content) // 2], "empties": b""}.get(self.lie, content)
        if self.lie != "stores nothing":
            self.objects[key] = stored, {} if self.lie == "loses metadata" else metadata
        return _etag(content)

    async def _read(self, request, key):
        if key not in self.objects:
            return web.Response(status=404)
        content, metadata = self.objects[key]
        headers = {"ETag": _etag(content), "Last-Modified": "Fri, 27 Nov 2026 10:00:00 GMT", **metadata}
        if self.lie == "no ETags":
            del headers["ETag"]
        if self.lie != "no sizes":
            return web.Response(body=content, headers={"Content-Length": str(len(content)), **headers})
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        if request.method == "GET":
            await response.write(content)
        return response


def _xml(name, content):
    return web.Response(text=f"<{name}>{content}</{name}>", content_type="application/xml")


def _metadata(request):
    return {name: value for name, value in request.headers.items() if name.lower().startswith("x-amz-meta-")}


def _etag(content):
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


@asynccontextmanager
async def simulated_s3(lie=""):
    """Serve a simulated S3 server with the bucket ``bucket``."""
    server = SimulatedS3(lie)
    async with http_server(server) as port:
        server.options = s3_options(f"http://127.0.0.1:{port}")
        yield server
