"""A WebDAV destination, the files that its server stores in a folder, and a simulated server that can lie."""

from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

from aiohttp import web

from aluma_async.destinations.webdav.client import open_session
from aluma_async.destinations.webdav.destination import WebDavDestination
from tests.support.http import http_server

WEB_PAGE = "<!DOCTYPE html><html><body>please log in</body></html>"


@asynccontextmanager
async def open_webdav(url, **options):
    """Open a destination with a session of its own."""
    async with open_session({}) as session:
        yield WebDavDestination(session, url, **options)


def read_exported(folder):
    """Return the content of all exported files by path."""
    root = folder / "export"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != ".aluma-async"
    }


def web_page(status=200):
    """Return what a log-in page answers."""
    return web.Response(status=status, text=WEB_PAGE, content_type="text/html")


class SimulatedWebDav:
    """A WebDAV server in memory. One ``lie`` may be set at any time.

    * ``stores nothing``: each change is confirmed with 201, and no file exists;
    * ``page for all``, ``page for reads``: 200 and a web page for each request, or for each GET and HEAD;
    * ``METHOD: status``, ``METHOD: page``: the method has no effect and is answered with it, or with 200 and a page;
    * ``METHOD: truncates``, ``METHOD: empties``: half of the file is stored, or nothing;
    * ``MOVE: loses``: the file disappears;
    * ``ignores Overwrite``: an existing file is replaced in spite of ``Overwrite: F``;
    * ``no sizes``, ``no sizes for HEAD``: responses do not contain the size of a file;
    * ``pages with 201``: a confirmation contains a web page, like those of Apache.
    """

    def __init__(self, lie=""):
        self.lie = lie
        self.files, self.folders = {}, {""}
        self.requests = []
        self.url = ""
        self.hook = None
        """An async function that is called with each request and its path, and may return another response."""

    @property
    def exported(self):
        """The content of all exported files by path."""
        files = {path.removeprefix("export/"): content for path, content in self.files.items()}
        return {path: content for path, content in files.items() if not path.startswith(".aluma-async/")}

    async def __call__(self, request):
        """Handle a request."""
        content = await request.content.read()  # unlike read(), without a limit
        path, method = unquote(request.raw_path).strip("/"), request.method
        self.requests.append((method, path))
        paths = path + unquote(request.headers.get("Destination", ""))
        if self.hook and (response := await self.hook(request, paths)):
            return response
        about, _, lie = self.lie.partition(": ")
        if self.lie == "page for all" or (self.lie == "page for reads" and method in ("GET", "HEAD")):
            return web_page()
        if self.lie == "stores nothing":
            return web.Response(status=404 if method in ("GET", "HEAD", "PROPFIND") else 201)
        if about == method and lie == "page":
            return web_page()
        if about == method and lie.isdecimal():
            return web.Response(status=int(lie))
        return await getattr(self, f"_{method.lower()}")(request, path, content)

    def _confirm(self, status=201):
        return web_page(201) if self.lie == "pages with 201" else web.Response(status=status)

    def _damage(self, method, content):
        if self.lie == f"{method}: truncates":
            return content[: len(content) // 2]
        return b"" if self.lie == f"{method}: empties" else content

    async def _mkcol(self, _, path, __):
        if path in self.folders or path in self.files:
            return web.Response(status=405)
        self.folders.add(path)
        return self._confirm()

    async def _put(self, _, path, content):
        self.files[path] = self._damage("PUT", content)
        return self._confirm()

    async def _copy(self, request, path, _, method="COPY"):
        target = unquote(urlsplit(request.headers["Destination"]).path).strip("/")
        if path not in self.files:
            return web.Response(status=404)
        replaced = target in self.files
        if replaced and request.headers["Overwrite"] == "F" and self.lie != "ignores Overwrite":
            return web.Response(status=412)
        content = self.files.pop(path) if method == "MOVE" else self.files[path]
        if self.lie != f"{method}: loses":
            self.files[target] = self._damage(method, content)
        return self._confirm(204 if replaced else 201)

    async def _move(self, request, path, content):
        return await self._copy(request, path, content, "MOVE")

    async def _delete(self, _, path, __):
        return web.Response(status=404 if self.files.pop(path, None) is None else 204)

    async def _get(self, request, path, _):
        if path not in self.files:
            return web.Response(status=404)
        if request.method == "HEAD" and self.lie.startswith("no sizes"):
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            return response
        return web.Response(body=self.files[path])

    _head = _get

    async def _propfind(self, request, path, _):
        if path not in self.files and path not in self.folders:
            return web.Response(status=404)
        kind = "<D:collection/>" if path in self.folders else ""
        size = f"<D:getcontentlength>{len(self.files[path])}</D:getcontentlength>" if path in self.files else ""
        if self.lie == "no sizes":
            size = ""
        text = f'<D:multistatus xmlns:D="DAV:"><D:resourcetype>{kind}</D:resourcetype>{size}</D:multistatus>'
        return web.Response(status=207, text=text, content_type="application/xml")


@asynccontextmanager
async def simulated_webdav(lie=""):
    """Serve a simulated WebDAV server."""
    server = SimulatedWebDav(lie)
    async with http_server(server) as port:
        server.url = f"http://127.0.0.1:{port}/export"
        yield server
