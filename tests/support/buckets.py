"""Object stores and WebDAV servers for tests.

moto honours conditional writes, rclone does not; both are installed from wheels. Azurite is an npm package.
"""

import hmac
import logging
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from base64 import b64decode, b64encode
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import boto3
import obstore
from moto.server import ThreadedMotoServer
from obstore.store import from_url

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
