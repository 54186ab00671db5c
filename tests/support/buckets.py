"""Object stores for tests: of the wheels, moto honours conditional puts and rclone does not; azurite is from npm."""

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
# The account that every simulator of Microsoft's has.
AZURE_NAME = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
RCLONE = str(Path(sys.executable).parent / "rclone")


@contextmanager
def moto():
    """Yield the options that lead to a server with an empty bucket called ``bucket``."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        options = options_of(f"http://{host}:{port}")
        client(options).create_bucket(Bucket="bucket")
        yield options
    finally:
        server.stop()


@contextmanager
def rclone(folder):
    """The same, as a folder on this machine."""
    (folder / "bucket").mkdir(parents=True, exist_ok=True)
    with serving("s3", "--auth-key", f"{KEY},{SECRET}", folder) as url:
        yield options_of(url)


@contextmanager
def serving(kind, *arguments, port=0):
    """Let rclone serve something; yield its address."""
    command = [RCLONE, "serve", kind, "--addr", f"127.0.0.1:{port}", "--config", "", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        rest = threading.Thread(target=process.stderr.read)  # or it stops when the pipe is full
        rest.start()
        try:
            yield found[0]
        finally:
            process.kill()
            rest.join()


@contextmanager
def azurite(folder):
    """Yield the options that lead to Microsoft's own simulator, with an empty container called ``bucket``."""
    command = [shutil.which("azurite-blob"), "--blobPort", "0", "--skipApiVersionCheck", "--location", folder]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if found := re.search(r"listens on (http://127\.0\.0\.1:\d+)", line):
                break
        rest = threading.Thread(target=process.stdout.read)
        rest.start()
        endpoint = f"{found[1]}/{AZURE_NAME}"
        try:
            make_container(endpoint)
            yield {"account_name": AZURE_NAME, "account_key": AZURE_KEY, "endpoint": endpoint, "allow_http": True}
        finally:
            process.kill()
            rest.join()


def make_container(endpoint):
    """Ask for it with a signature (Shared Key); obstore makes no containers."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = "PUT" + "\n" * 12 + f"{signed}/{AZURE_NAME}/{AZURE_NAME}/bucket\nrestype:container"
    signature = b64encode(hmac.digest(b64decode(AZURE_KEY), text.encode(), "sha256")).decode()
    headers["Authorization"] = f"SharedKey {AZURE_NAME}:{signature}"
    url = f"{endpoint}/bucket?restype=container"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)):
        pass


def options_of(endpoint):
    return {
        "endpoint": endpoint,
        "access_key_id": KEY,
        "secret_access_key": SECRET,
        "region": "us-east-1",
        "allow_http": True,
    }


def client(options):
    """Amazon's own client, as a second opinion."""
    return boto3.client(
        "s3",
        endpoint_url=options["endpoint"],
        region_name=options["region"],
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )


def objects(options, prefix="", scheme="s3"):
    """The objects that are not our own, by key."""
    config = {key: value for key, value in options.items() if key != "allow_http"}
    store = from_url(f"{scheme}://bucket", config=config, client_options={"allow_http": True})
    keys = [found["path"] for batch in obstore.list(store, prefix=prefix or None) for found in batch]
    ours = f"{prefix}/.aluma-async/".lstrip("/")
    return {key: bytes(obstore.get(store, key).bytes()) for key in keys if not key.startswith(ours)}
