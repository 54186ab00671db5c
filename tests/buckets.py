"""S3 servers for tests, from wheels: moto honours conditional puts, rclone does not."""

import logging
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import boto3
import obstore
from moto.server import ThreadedMotoServer
from obstore.store import from_url

KEY, SECRET = "AKIAEXAMPLEKEY", "canary-secret-7c1"
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
def serving(kind, *arguments):
    """Let rclone serve something; yield its address."""
    command = [RCLONE, "serve", kind, "--addr", "127.0.0.1:0", "--config", "", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found[0]
                    break
        finally:
            process.kill()


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


def objects(options, prefix=""):
    """The objects that are not our own, by key."""
    config = {key: value for key, value in options.items() if key != "allow_http"}
    store = from_url("s3://bucket", config=config, client_options={"allow_http": True})
    keys = [found["path"] for batch in obstore.list(store, prefix=prefix or None) for found in batch]
    return {key: bytes(obstore.get(store, key).bytes()) for key in keys if ".aluma-async/" not in key}
