"""Two destinations in one place, or one among the exporter's own files, are refused."""

import asyncio
from itertools import permutations

import pytest

from aluma_async import Config, FolderDestination
from aluma_async.config import Credentials
from aluma_async.config.destinations import PluginConfig
from aluma_async.destinations.common.place import templates_overlap
from aluma_async.destinations.places import check_config_file, check_places
from aluma_async.destinations.registry import open_destinations
from aluma_async.destinations.sql.place import table_place
from aluma_async.destinations.sql.tables import TableTemplate
from aluma_async.exceptions import ConfigError
from aluma_async.testing import MemoryDestination
from aluma_async.wiring import open_exporter

VARIABLES = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGOPTIONS", "PGSERVICE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in an empty folder, with no settings of databases and stores in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "one")
    return tmp_path


def config_of(*sections, more=""):
    """Return a configuration with a destination for each section, named a, b, ..."""
    destinations = [f"[destinations.{name}]\n{section}\n" for name, section in zip("abc", sections, strict=False)]
    return Config.from_toml("\n".join([*destinations, more]), "c.toml", {"exporter": {"state": "state"}})


def problem_of(*sections, more=""):
    """Return the message that refuses a configuration; empty if it is accepted."""

    async def check():
        config = config_of(*sections, more=more)
        async with open_destinations(config.destinations, config.state_folder()) as opened:
            check_places(config, opened)

    try:
        asyncio.run(check())
    except ConfigError as caught:
        error, *_ = caught.mistakes or [caught]
        assert error.hint.endswith(".")
        return str(error)
    return ""


def folder_at(path, **keys):
    return f"type = 'folder'\npath = '{path}'\n" + "\n".join(f"{key} = {value}" for key, value in keys.items())


def sql(url, table, **keys):
    lines = (f"{key} = {value}" for key, value in keys.items())
    return "\n".join(["type = 'sql'", f"url = '{url}'", f"table = '{table}'", *lines])


def store(url, **options):
    values = ", ".join(f"{key} = '{value}'" for key, value in options.items())
    return f"type = 'object-store'\nurl = '{url}'\noptions = {{ {values} }}"


def webdav(url):
    return f"type = 'webdav'\nurl = '{url}'\nallow_insecure = true"


PG = "postgresql://me:secret@db.example/ledger"
SAME = [
    # folders
    (folder_at("out"), folder_at("out")),
    (folder_at("out"), folder_at("./x/../out/")),
    (folder_at("out"), folder_at("out/csv")),
    (folder_at("."), folder_at("out")),
    (folder_at("out", newline="'crlf'"), folder_at("link")),
    (folder_at("out"), folder_at("link/deeper/still")),
    (folder_at("new"), folder_at("NEW")),
    # tables
    (sql(PG, "docs"), sql(PG, "docs", mode="'files'")),
    (sql(PG, "docs", key="['a']"), sql(PG, "docs", column_names="{ a = 'b' }")),
    (sql(PG, "docs"), sql("postgresql+psycopg://other@DB.example:5432/ledger?sslmode=require", "docs")),
    (sql(PG, "docs"), sql(PG, "public.docs")),  # the search path decides, and only the server knows it
    (sql(PG, "{stem}"), sql(PG, "docs")),
    (sql(PG, "{folder}_rows"), sql(PG, "invoice_{stem}")),
    (sql("postgresql://localhost/x", "t"), sql("postgresql://127.0.0.1/x", "t")),
    (sql("postgresql://localhost/x", "t"), sql("postgresql:///x?host=/run/postgresql", "t")),
    (sql("postgresql://h/x", "t"), sql("postgresql://g,h:5432/x", "t")),
    (sql("postgresql://h/x", "t"), sql("postgresql:///x?host=g&host=h", "t")),
    (sql("postgresql://x@h", "t"), sql("postgresql://h/x", "t")),  # the name of the user is the default
    (sql(PG, "docs"), sql("postgresql:///?service=ledger", "docs")),
    (sql(PG + "?options=-csearch_path%3Da", "t"), sql(PG, "a.t")),
    (sql(PG, "aluma_manifest"), sql(PG, "docs", manifest="true")),
    (sql(PG, "docs"), sql(PG, '"docs"')),
    (sql(PG, 'a."b.c"'), sql(PG, '"a"."b.c"')),
    (sql(PG, "docs"), sql("postgresql://me@db.example:5432,other.example:5433/ledger", "docs")),
    (sql("sqlite:///data.db", "docs"), sql("sqlite:///./data.db", "DOCS")),
    (sql("sqlite:///data.db", "docs"), sql("sqlite:///file:data.db?uri=true", "main.docs")),
    (sql("sqlite:///out/data.db", "docs"), sql("sqlite:///link/data.db", "docs")),
    # a database among the files of a folder
    (folder_at("out"), sql("sqlite:///out/data.db", "docs")),
    (folder_at("out"), sql("sqlite:///link/sub/data.db", "docs")),
    # buckets
    (store("s3://bucket/a"), store("s3://bucket/a/")),
    (store("s3://bucket"), store("s3://bucket/a")),
    (store("s3://bucket/a"), store("s3://bucket/a/b", region="eu-central-1")),
    (store("s3://bucket/a"), store("s3://bucket/a", endpoint="https://s3.eu-central-1.amazonaws.com")),
    (store("s3://b/a", endpoint="http://localhost:9000"), store("s3://b/a", endpoint="http://127.0.0.1:9000/")),
    (store("gs://bucket/a"), store("s3://bucket/a", endpoint="https://storage.googleapis.com")),
    (store("az://c/a", account_name="one"), store("az://c/a")),
    (store("az://c", account_name="one"), store("az://c/a", endpoint="https://one.blob.core.windows.net/")),
    # WebDAV
    (webdav("https://dav.example/a"), webdav("https://dav.example/a/")),
    (webdav("https://dav.example/a"), webdav("https://DAV.example:443/b/../a/%62")),
    (webdav("https://dav.example/Out"), webdav("http://dav.example/out")),
    (webdav("https://dav.example/Caf%C3%A9"), webdav("https://dav.example/cafe")),
    (webdav("https://dav.example"), webdav("https://dav.example/a")),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_destinations_in_one_place_are_refused(one, other, folder):
    (folder / "out").mkdir()
    (folder / "link").symlink_to("out")
    for sections in permutations([one, other]):
        message = problem_of(*sections)
        assert message.startswith("[destinations.b]"), "the later one is named"
        assert "[destinations.a]" in message
        assert "whatever" in message, "the message says that routes do not help"
        assert "secret" not in message


DIFFERENT = [
    (folder_at("out"), folder_at("out2"), folder_at("other/out")),
    (folder_at("out"), folder_at("link2")),
    (folder_at("out"), sql("sqlite:///data.db", "docs")),
    (sql(PG, "docs"), sql(PG, "docs2"), sql(PG, "docs3")),
    (sql(PG, "a.docs"), sql(PG, "b.docs")),
    (sql(PG, "docs"), sql(PG, "Docs")),  # PostgreSQL distinguishes case
    (sql(PG, "docs"), sql("postgresql://db.example:5433/ledger", "docs")),
    (sql(PG, "docs"), sql("postgresql://db.example/other", "docs")),
    (sql(PG + "?options=-csearch_path%3Da", "t"), sql(PG + "?options=-c%20search_path%3Db", "t")),
    (sql(PG, "a_{stem}"), sql(PG, "b_{stem}")),
    (sql(PG, "{stem}_a"), sql(PG, "{stem}_b")),
    (sql(PG, "docs", manifest="true"), sql(PG, "other", manifest="true")),
    (sql("sqlite:///data.db", "docs"), sql("sqlite:///other.db", "docs")),
    (sql("sqlite:///data.db", "docs"), sql(PG, "docs")),
    (store("s3://bucket/a"), store("s3://bucket/ab"), store("s3://bucket/A")),
    (store("s3://bucket/a"), store("s3://other/a"), store("gs://bucket/a")),
    (store("s3://b", endpoint="http://one:9000"), store("s3://b", endpoint="http://two:9000")),
    (store("az://c", account_name="one"), store("az://c", account_name="two")),
    (webdav("https://dav.example/a"), webdav("https://dav.example/ab"), webdav("https://other.example/a")),
    (webdav("https://dav.example:8443/a"), webdav("https://dav.example/a")),
]


@pytest.mark.parametrize("sections", DIFFERENT)
def test_destinations_in_different_places_are_accepted(sections, folder):
    (folder / "out").mkdir()
    (folder / "else").mkdir()
    (folder / "link2").symlink_to("else")
    assert problem_of(*sections) == ""


@pytest.mark.parametrize(
    ("section", "part"),
    [
        (folder_at("state"), "is the same as the state folder"),
        (folder_at("state/export"), "is inside the state folder"),
        (folder_at("state/spool"), "is inside the state folder"),
        (folder_at("state/quarantine"), "is the same as the quarantine"),
        (folder_at("."), "contains the state folder"),
        (folder_at("elsewhere"), "is the same as the quarantine"),  # by a link
        (folder_at("elsewhere/deeper"), "is inside the quarantine"),
        (sql("sqlite:///state/data.db", "t"), "is inside the state folder"),
        (sql("sqlite:///state/journal.sqlite3", "t"), "is inside the state folder"),
        (sql("sqlite:///elsewhere/x.db", "t"), "is inside the quarantine"),
        (sql(PG, "aluma_manifest", manifest="true"), "is the table of manifests"),
    ],
)
def test_destination_among_the_exporters_own_files_is_refused(section, part, folder):
    (folder / "state").mkdir()
    (folder / "elsewhere").mkdir()
    (folder / "state" / "quarantine").symlink_to(folder / "elsewhere")
    assert part in problem_of(section)


def test_links_below_the_state_folder_that_overlap_are_refused(folder):
    (folder / "state").mkdir()
    (folder / "state" / "spool").symlink_to(folder / "state")
    assert "the spool folder state/spool: overlaps" in problem_of(folder_at("out"))


@pytest.mark.parametrize("path", ["out/secret", "out/deep/secret", "link/secret", "out/visible"])
@pytest.mark.parametrize(
    ("key", "section", "more"),
    [
        ("[aluma] client_secret_file", folder_at("out"), "[aluma]\nclient_secret_file = '{}'"),
        ("[aluma] ca_file", folder_at("out"), "[aluma]\nca_file = '{}'"),
        ("[destinations.b] url_file", "type = 'sql'\ntable = 't'\nurl_file = '{}'", ""),
        ("[destinations.b] token_file", "type = 'webdav'\nurl = 'https://d.example/a'\ntoken_file = '{}'", ""),
        (
            "[destinations.b] options.secret_access_key",
            "type = 'object-store'\nurl = 's3://b'\noptions.access_key_id = 'x'\noptions.secret_access_key.file = '{}'",
            "",
        ),
    ],
)
def test_folder_with_a_file_that_the_configuration_names_is_refused(path, key, section, more, folder):
    """An exported file could replace it, and readers of the folder could read it. A link to it may be there, too."""
    (folder / "out" / "deep").mkdir(parents=True)
    (folder / "link").symlink_to("out")
    file = folder / (path if path != "out/visible" else "safe")
    file.write_text("sqlite:///data.db")
    file.chmod(0o600)
    if path == "out/visible":
        (folder / path).symlink_to(file)
    section = section.format(path) if "{}" in section else folder_at("tidy")
    assert f"[destinations.a] out: contains {key}, {path}" in problem_of(
        folder_at("out"), section, more=more.format(path)
    )


def test_secret_is_refused_in_the_quarantine_but_not_in_the_state_folder(folder):
    """Nothing in the state folder itself has a name that a document chooses."""
    more = "[aluma]\nclient_secret_file = 'state/{}'"
    assert problem_of(folder_at("out"), more=more.format("secret")) == ""
    assert "is in the quarantine" in problem_of(folder_at("out"), more=more.format("quarantine/secret"))


def test_configuration_in_a_folder_that_overwrites_files_is_refused(folder):
    """A task's file could be named like it. Without "overwrite", the exported file gets another name."""
    file = folder / "config.toml"
    file.touch()
    check_config_file(config_of(folder_at(".")), file)
    check_config_file(config_of(folder_at("out", on_conflict="'overwrite'")), file)
    with pytest.raises(ConfigError, match="contains the configuration"):
        check_config_file(config_of(folder_at(".", on_conflict="'overwrite'")), file)


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [
        ("docs", "docs", True),
        ("docs", "doc", False),
        ("{stem}", "", True),
        ("{stem}", "{folder}", True),
        ("a{stem}", "{stem}b", True),
        ("a{stem}c", "b{stem}c", False),
        ("{folder}x{stem}", "axb", True),
        ("{folder}x{stem}", "ab", False),
        ("a{stem}b{stem}c", "ab{stem}c", True),
        ("a{stem}a", "a", False),
    ],
)
def test_templates_overlap_if_some_name_matches_both(one, other, result):
    assert templates_overlap(one, other) == templates_overlap(other, one) == result


def test_environment_completes_the_url_of_a_database():
    import sqlalchemy as sa

    environ = {"PGHOST": "h", "PGPORT": "5433", "PGDATABASE": "x", "PGOPTIONS": "-c search_path=a"}
    table, table_of_a = TableTemplate.parse("t", 63), TableTemplate.parse("a.t", 63)
    place = table_place(sa.make_url("postgresql://"), table, manifest=False, environ=environ)
    assert place == table_place(sa.make_url("postgresql://h:5433/x"), table_of_a, manifest=False, environ={})
    assert table_place(sa.make_url("sqlite://"), table, manifest=False) is None


def test_two_plugins_with_the_same_keys_are_refused():
    """What they write to is not known, but it is the same."""
    one, other = PluginConfig("blobs", {"path": "x"}), PluginConfig("blobs", {"path": "y"})
    opened = {"a": MemoryDestination(), "b": MemoryDestination()}
    check_places(Config(destinations={"a": one, "b": other}), opened)
    with pytest.raises(ConfigError, match=r"\[destinations.b\]: is the same as \[destinations.a\]"):
        check_places(Config(destinations={"a": one, "b": one}), opened)


@pytest.mark.parametrize("kind", ["object", "folder", "configured"])
def test_destination_objects_of_one_place_are_refused(kind, folder):
    """The same holds for objects that an embedding program passes."""
    shared = MemoryDestination()
    destinations = {
        "object": {"one": shared, "two": shared},
        "folder": {"one": FolderDestination("out"), "two": FolderDestination(folder / "out" / "sub")},
        "configured": {"one": FolderDestination(folder / "out")},
    }[kind]
    sections = [folder_at("out")] if kind == "configured" else []
    config = config_of(*sections, more="[[routes]]\nto = ['one']")

    async def open_it():
        async with open_exporter(config, Credentials("id", "secret"), destinations=destinations):
            pass

    with pytest.raises(ConfigError, match=r"\[destinations.(one|two)\]"):
        asyncio.run(open_it())
    check_places(config, {"one": MemoryDestination(), "two": MemoryDestination()})
    assert not (folder / "out").exists()
    assert not (folder / "state").exists()
