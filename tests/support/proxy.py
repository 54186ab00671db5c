"""A proxy in front of the simulated Aluma that answers in its place, or changes its answers."""

import http.client
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class Proxy:
    """The rules of a proxy, and the requests that it has received.

    ``answer`` gets the kind of a request (``token list get start complete cancel fail file``) and returns None, or a
    status, a content type and a body. ``change`` gets a decoded Export Specification and returns the one that the
    exporter receives.
    """

    def __init__(self, target):
        self.target = urlsplit(target)
        self.answer = lambda verb: None
        self.change = None
        self.received = []
        self.base_url = ""

    def count(self, verb):
        """Return the number of requests of a kind."""
        return sum(received == verb for received in self.received)

    def forward(self, method, path, headers, body):
        """Return status, headers and body of the response to a request."""
        verb = _verb(urlsplit(path).path)
        self.received.append(verb)
        if answer := self.answer(verb):
            status, content_type, text = answer
            return status, [("Content-Type", content_type)], text.encode()
        connection = http.client.HTTPConnection(self.target.hostname, self.target.port)
        connection.request(method, path, body, {name: value for name, value in headers.items() if name != "Host"})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if verb == "start" and response.status < 300 and self.change:
            content = json.dumps(self.change(json.loads(content))).encode()
        return response.status, response.getheaders(), content


def _verb(path):
    last = path.rpartition("/")[2]
    if last.endswith("_client_action"):
        return last.removesuffix("_client_action")
    if "/tasks/" in path:
        return "get"
    return {"token": "token", "tasks": "list"}.get(last, "file")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, content = self.server.proxy.forward(self.command, self.path, self.headers, body)
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = _serve  # noqa: N815 - the names that the base class looks up

    def log_message(self, *_):
        pass


@contextmanager
def proxy_for(target):
    """Run a proxy for a base URL; its own is ``base_url``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.proxy = Proxy(target)
    server.proxy.base_url = f"http://127.0.0.1:{server.server_port}{server.proxy.target.path}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        server.server_close()
