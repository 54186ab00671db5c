"""Nothing that the program writes contains a text that a trigger made up, or a name that only the file contains."""

import json

import pytest

from tests.acceptance.test_sql_program import CREATE, TASKS, write_config
from tests.support.processes import PENDING
from tests.support.server import aluma_server

SECRET = "Canary77"
BODY = f"""
BEGIN
  RAISE NOTICE '{SECRET}'; RAISE WARNING '{SECRET}';
  RAISE EXCEPTION '{SECRET} %', NEW."PatientName"
    USING ERRCODE = '{{code}}', DETAIL = '{SECRET}', HINT = '{SECRET}', COLUMN = '{SECRET}';
END
"""


@pytest.mark.parametrize("code", ["P0001", "23505", "42000", "column"])
def test_program_writes_no_secret_of_the_database(run_cli, postgres_database, tmp_path, code):
    """The journal, records of the quarantine, logs, status, history and notifications."""
    secret, setup = SECRET, CREATE
    if code == "column":
        secret, setup = "PatientName", CREATE.replace('"PatientName" TEXT,', "")
    postgres_database.ask(setup)
    if code != "column":
        function = f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ {BODY.format(code=code)} $$"
        postgres_database.ask(function)
        postgres_database.ask("CREATE TRIGGER c BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION f()")
    write_config(tmp_path)
    notified = tmp_path / "notified"
    config = (tmp_path / "config.toml").read_text()
    command = json.dumps(["/bin/sh", "-c", f"cat >> {notified}"])
    if "[service]" in config:
        config = config.replace("[service]", f"[service]\nnotify_command = {command}")
    else:
        config += f"[service]\nnotify_command = {command}\n"
    (tmp_path / "config.toml").write_text(config)
    with aluma_server(TASKS) as aluma:
        options = ("--once", "--base-url", aluma.base_url)
        outputs = [
            run_cli(*options, *more, DATABASE_URL=postgres_database.url) for more in ((), ("--log-format", "json"))
        ]
        assert outputs[0].returncode == 1, outputs[0].stderr
        assert aluma.simulated.count_by_state() == {PENDING: TASKS}
        for command in (("status",), ("status", "--json"), ("history",), ("history", "--json"), ("quarantine", "list")):
            outputs.append(run_cli(*command))
    for done in outputs:
        assert secret not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".toml", ".csv")]
    assert any("journal" in path.name for path in written), written
    for path in written:
        content = path.read_bytes()
        if path.name == "specification.json":  # the copy itself
            continue
        assert secret.encode() not in content, path
