"""``doctor``: a report that is complete, also for a broken installation, and that contains no secret."""

import re
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.support.processes import simulator

SECTIONS = ("Program", "Machine", "Configuration", "Environment", "Paths", "Clock", "Check")
SECRET = "planted-5ecret"
FOLDER = '[destinations.default]\ntype = "folder"\npath = "out"\n'
PLANTED = f"""
[aluma]
base_url = "{{url}}"
client_secret_file = "secret"
proxy = "http://user:{SECRET}/1@127.0.0.1:9"
[service]
notify_url = "http://127.0.0.1:9/hooks/{SECRET}"
[destinations.default]
type = "sql"
url = "postgresql://user:{SECRET}2@127.0.0.1:9/db?sslpassword={SECRET}"
table = "a"
[destinations.b]
type = "object-store"
url = "s3://bucket/prefix?token={SECRET}"
options = {{{{ aws_secret_access_key = "{SECRET}4", region = "x", endpoint = "http://u:{SECRET}@127.0.0.1:9" }}}}
[destinations.c]
type = "sql"
url_file = "dsn"
table = "a"
[destinations.d]
type = "sql"
url_env = "DSN"
table = "a"
[destinations.e]
type = "webdav"
url = "http://127.0.0.1:9/dav"
token_file = "token"
"""
MISTAKES = {
    "unknown key": f'client_secret = "{SECRET}"',
    "url of another kind": f'base_url = "https://user:{SECRET}@host"',
    "wrong type": f'projects = "{SECRET}"\nproxy = "ftp://u:{SECRET}@host"',
    "no TOML": f'client_secret = "{SECRET}\nproxy = "http://u:{SECRET}@host"',
}


def sections(text):
    """Return the parts of the report by their title."""
    parts = [part.partition("\n") for part in text.split("\n\n")]
    return {title: body for title, _, body in parts}


@contextmanager
def server_with_clock(difference):
    """A server whose clock is ahead by some seconds."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response_only(404)
            self.send_header("Date", formatdate(time.time() + difference, usegmt=True))
            self.end_headers()

        def do_POST(self):
            self.do_HEAD()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_doctor_reports_a_working_installation(run_cli, tmp_path, aluma_with_50_tasks):
    """Exit code 0; nothing on stderr, because all of it is one text to copy."""
    (tmp_path / "config.toml").write_text(FOLDER)
    proxies = {"HTTPS_PROXY": f"http://user:{SECRET}@proxy:3128", "no_proxy": "localhost"}
    done = run_cli(
        "doctor", "--base-url", aluma_with_50_tasks.base_url, "--state", "state", "--workers", "3", **proxies
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = sections(done.stdout)
    assert tuple(report)[:7] == SECTIONS
    assert "aiohttp " in report["Program"]
    assert re.search(r"Extras: (fleet, )?object-store, sql", report["Program"])
    assert "workers: 3" in report["Configuration"]
    assert "destinations: default (folder)" in report["Configuration"]
    assert "HTTPS_PROXY: http://…@proxy:3128" in report["Environment"]
    assert "no_proxy: localhost" in report["Environment"]
    assert "ALUMA_CLIENT_SECRET: set" in report["Environment"]
    assert "client secret: environment ALUMA_CLIENT_SECRET" in report["Environment"]
    for label in ("configuration: ", "state folder: ", "quarantine: ", "destination default: "):
        assert f"  {label}" in report["Paths"]
    assert "equal to Aluma's" in report["Clock"]
    assert "ok    environment: Aluma at" in report["Check"]
    assert done.stdout.endswith("\nExit code: 0 (all is well)\n")


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (["-c", "missing.toml"], "", 78),
        ([], "[exporter]\nworkers = 0\n" + FOLDER, 78),
        ([], "[exporter\n", 78),
        ([], FOLDER, 69),
        (["--output", "out"], "", 69),
    ],
)
def test_doctor_exits_as_check_and_prints_every_section(arguments, text, code, run_cli, tmp_path):
    """Also if the configuration is missing or broken."""
    if text:
        (tmp_path / "config.toml").write_text(text)
    arguments = [*arguments, "--base-url", "http://127.0.0.1:9", "--state", "state"]
    done = run_cli("doctor", *arguments)
    checked = run_cli("check", *arguments)
    assert done.returncode == checked.returncode == code
    assert tuple(sections(done.stdout))[:7] == SECTIONS
    assert checked.stdout.strip() in done.stdout
    assert f"Exit code: {code} (see the first FAIL)" in done.stdout
    if "missing.toml" in arguments:
        assert "cannot be used: missing.toml" in done.stdout


def test_doctor_exits_with_77_when_credentials_are_refused(run_cli, tmp_path, aluma_with_50_tasks):
    done = run_cli("doctor", "-o", "out", "--base-url", aluma_with_50_tasks.base_url, secret=SECRET)
    assert done.returncode == 77


@pytest.mark.parametrize("broken", [False, True])
def test_doctor_prints_no_secret(broken, run_cli, tmp_path):
    """Of the configuration, its files and variables, the environment, and systemd."""
    text = PLANTED if not broken else f"{PLANTED}[x\n{SECRET}"
    for name in ("secret", "token", "systemd/aluma-client-secret"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{SECRET}-{name}")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "dsn").write_text(f"postgresql://user:{SECRET}@127.0.0.1:9/db")
    (tmp_path / "dsn").chmod(0o600)
    environ = {
        "DSN": f"postgresql://user:{SECRET}@127.0.0.1:9/db?password={SECRET}",
        "HTTPS_PROXY": f"http://user:{SECRET}@proxy:3128",
        "http_proxy": f"user:{SECRET}@proxy",
        "ALL_PROXY": f"socks5://{SECRET}@proxy",
        "PGPASSWORD": SECRET,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "CREDENTIALS_DIRECTORY": str(tmp_path / "systemd"),
        "ALUMA_ASYNC_TOKEN": SECRET,
    }
    with simulator("--tasks", "1") as aluma:
        (tmp_path / "config.toml").write_text(text.format(url=aluma.base_url))
        done = run_cli("doctor", "-v", **environ, secret=f"{SECRET}-environment")
    assert done.returncode != 0
    assert tuple(sections(done.stdout))[:7] == SECTIONS
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_doctor_prints_no_secret_of_a_mistake(mistake, run_cli, tmp_path):
    (tmp_path / "config.toml").write_text(f"[aluma]\n{mistake}\n{FOLDER}")
    done = run_cli("doctor")
    assert done.returncode == 78
    assert SECRET not in done.stdout + done.stderr
    assert "not compared with Aluma's, because its address is not known" in done.stdout


@pytest.mark.parametrize(
    ("difference", "words"),
    [(300, ("warn: ", "s behind Aluma's")), (-300, ("warn: ", "s ahead of Aluma's")), (10, ("s behind Aluma's",))],
)
def test_doctor_measures_the_difference_to_the_clock_of_aluma(difference, words, run_cli):
    with server_with_clock(difference) as url:
        done = run_cli("doctor", "-o", "out", "--base-url", url)
    line = sections(done.stdout)["Clock"]
    assert all(word in line for word in words)
    seconds = float(re.search(r"([\d.]+) s (?:behind|ahead)", line)[1])
    assert abs(seconds - abs(difference)) < 5
    assert ("warn" in line) == ("warn: " in words)
