"""A minimal Aluma for loads that nginx cannot serve: delayed replies and tables.

It runs in a process of its own, checks no token, and keeps only the list of pending tasks.
``python -m benchmarks.server JSON`` prints its base URL.
"""

import asyncio
import random
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def free_port() -> int:
    """Return a port on which no process listens now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The pending tasks."""

    tasks: int
    size: int = 20 * 1024
    """Bytes of each task's download, in addition to a text of 500 bytes; 0: no download."""
    rows: int = 0
    """Rows of each task's CSV file (four columns); one key in ten is also in the previous task."""
    folder: str
    """Folder of the file that all tasks share."""
    latency: float = 0.0
    """Seconds before each reply."""
    heavy_tail: int = 0
    """Seed for download delays of 20 ms to 8 s (Pareto); 0: no delays."""

    def task_id(self, number: int) -> str:
        return f"task{number:018}"

    def delays(self) -> list[float]:
        """Return the delay of each task's download in seconds."""
        chance = random.Random(self.heavy_tail)
        if not self.heavy_tail:
            return [0.0] * self.tasks
        return [min(8.0, 0.02 * chance.paretovariate(1.05)) for _ in range(self.tasks)]

    def file(self) -> Path:
        """Write the file that all tasks share; return its path."""
        path = Path(self.folder) / "file.bin"
        block = (
            b"%PDF-" + random.Random(0).randbytes(min(self.size, 1 << 20))[10:] + b"%%EOF"
        )  # checked by the exporter
        path.write_bytes(block * max(1, self.size >> 20))
        return path


def listing(load: Load, numbers: Iterable[int]) -> Iterator[bytes]:
    """Yield the listing of the pending tasks in chunks."""
    chunk = bytearray(b'{"tasks":[')
    for count, number in enumerate(numbers):
        chunk += b"," * bool(count) + row(load, number)
        if len(chunk) > 256 * 1024:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk) + b"]}"


def index(load: Load) -> str:
    """Return a page of links to all files, as rclone expects it."""
    links = "".join(f'<a href="{load.task_id(number)}">{number}</a>\n' for number in range(load.tasks))
    return f"<html><body>{links}</body></html>"


def row(load: Load, number: int) -> bytes:
    task_id = load.task_id(number).encode()
    return (
        b'{"id":"%b","name":"%b.pdf","file_collection_id":"hZ7GkxSHSRmk9ibpio_yOQ","project_id":"ZbfzIZorTFOV60GX58YUuQ",'
        b'"project_name":"ACME Medical Records","created_at":"2024-03-25T16:38:06Z","documents_count":1,'
        b'"state":"pending:start_client_action","client_action":"export"}' % (task_id, task_id)
    )


def table(load: Load, task_id: str) -> str:
    """Return a task's CSV file."""
    first = int(task_id[4:]) * load.rows * 9 // 10
    lines = [f"{n},2026-12-{n % 31 + 1:02},Müller & Söhne {n},{n % 9999}.50" for n in range(first, first + load.rows)]
    return "\n".join(["id,day,name,amount", *lines])


def specification(load: Load, task_id: str) -> bytes:
    content = table(load, task_id) if load.rows else "x,y\n" * 125
    files = [{"folder": "", "filename": f"{task_id}.csv", "source": "content", "content": content, "url": None}]
    if load.size:
        url = f"/file_collections/c/files/{task_id}"
        files.append({"folder": "", "filename": f"{task_id}.pdf", "source": "url", "content": None, "url": url})
    return msgspec.json.encode({"documents": [{"files": files}]})


class Reply(NamedTuple):
    body: bytes = b""
    content_type: str = "application/json"
    status: int = 200
    delay: float = 0.0
    """Seconds before the reply is sent."""


class Api:
    """Maps the path of a request to a reply."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.open = dict.fromkeys(map(load.task_id, range(load.tasks)))
        self.delays = dict(zip(self.open, load.delays(), strict=True))
        self.file = load.file().read_bytes()

    def reply(self, path: str) -> Reply:
        if path.startswith("/file_collections"):
            return Reply(self.file, "application/pdf", delay=self.delays[path.rpartition("/")[2]])
        if path == "/rclone/":
            return Reply(index(self.load).encode(), "text/html")
        if path.startswith("/rclone/"):
            return Reply(self.file, "application/pdf")
        if path == "/oauth/token":
            return Reply(b'{"access_token":"token","expires_in":86400}')
        if path.partition("?")[0] == "/tasks":
            return Reply(b"".join(listing(self.load, [int(task_id[4:]) for task_id in self.open])))
        task_id, verb = path.split("/")[2:4]
        if verb.startswith("start"):
            return Reply(specification(self.load, task_id), status=202)
        if verb.startswith("complete"):
            del self.open[task_id]
        return Reply(status=202)


class Connection(asyncio.Protocol):
    """Answers one request after the other. No framework, because it would need as much CPU as the contender."""

    transport: asyncio.Transport

    def __init__(self, api: Api) -> None:
        self.api = api
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        self.received = b""
        method, path, _ = head.decode().split(" ", 2)
        reply = self.api.reply(path)
        lines = (
            f"HTTP/1.1 {reply.status} OK",
            f"Content-Type: {reply.content_type}",
            f"Content-Length: {len(reply.body)}",
        )
        response = "\r\n".join((*lines, "", "")).encode() + (b"" if method == "HEAD" else reply.body)
        delay = self.api.load.latency + reply.delay
        if delay:
            asyncio.get_running_loop().call_later(delay, self.transport.write, response)
        else:
            self.transport.write(response)


async def main(load: Load) -> None:
    api = Api(load)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(api), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Load)))
