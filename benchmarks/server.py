"""The server for what nginx cannot play: replies that take their time, and tables. The least of Aluma's API.

It runs in a process of its own, checks no token, keeps no state but what is left, and sends files with sendfile.
``python -m benchmarks.server JSON`` prints its base URL.
"""

import asyncio
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from aiohttp import web


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for export."""

    tasks: int
    size: int = 20 * 1024
    """Bytes of the one file that each task has besides a text of 500 bytes; 0: no file."""
    rows: int = 0
    """Rows of the CSV file of each task, four columns; some of their keys are those of the task before."""
    folder: str
    """Where the file is that all tasks have."""
    latency: float = 0.0
    """Seconds before each reply."""
    heavy_tail: int = 0
    """Seed for replies to downloads that take 20 ms to 8 s (Pareto); 0: they do not."""

    def task_id(self, number: int) -> str:
        return f"task{number:018}"

    def delays(self) -> list[float]:
        """Seconds that the download of each task takes."""
        chance = random.Random(self.heavy_tail)
        if not self.heavy_tail:
            return [0.0] * self.tasks
        return [min(8.0, 0.02 * chance.paretovariate(1.05)) for _ in range(self.tasks)]

    def file(self) -> Path:
        """Write the file that all tasks have."""
        path = Path(self.folder) / "file.bin"
        path.write_bytes(random.Random(0).randbytes(min(self.size, 1 << 20)) * max(1, self.size >> 20))
        return path


def listing(load: Load, numbers: Iterable[int]) -> Iterator[bytes]:
    """The list of what waits, piece by piece."""
    piece = bytearray(b'{"tasks":[')
    for count, number in enumerate(numbers):
        piece += b"," * bool(count) + row(load, number)
        if len(piece) > 256 * 1024:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + b"]}"


def index(load: Load) -> str:
    """A page of links to all files, as rclone wants to see one."""
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
    """A CSV file."""
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


class Api:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.open = dict.fromkeys(map(load.task_id, range(load.tasks)))
        self.delays = dict(zip(self.open, load.delays(), strict=True))
        self.path = load.file()
        self.body = self.path.read_bytes() if load.size <= 256 * 1024 else b""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.load.latency:
            await asyncio.sleep(self.load.latency)
        path = request.path
        if path.startswith("/file_collections"):
            if delay := self.delays[path.rpartition("/")[2]]:
                await asyncio.sleep(delay)
            return web.Response(body=self.body) if self.body else web.FileResponse(self.path)
        if path == "/rclone/":
            return web.Response(text=index(self.load), content_type="text/html")
        if path.startswith("/rclone/"):
            return web.FileResponse(self.path)
        if path == "/oauth/token":
            return web.json_response({"access_token": "token", "expires_in": 86400})
        if path == "/tasks":
            return await self.list(request)
        task_id, verb = path.split("/")[2:4]
        if verb.startswith("start"):
            body = specification(self.load, task_id)
            return web.Response(status=202, body=body, content_type="application/json")
        if verb.startswith("complete"):
            del self.open[task_id]
        return web.Response(status=202)

    async def list(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for piece in listing(self.load, [int(task_id[4:]) for task_id in self.open]):
            await response.write(piece)
        await response.write_eof()
        return response


async def main(load: Load) -> None:
    runner = web.ServerRunner(web.Server(Api(load)))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Load)))
