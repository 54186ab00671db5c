"""What ``Routing`` and ``DestinationRouter`` promise: files go where their routes say, a task everywhere or nowhere."""

from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from aluma_async.config import Config, FolderConfig, RouteConfig
from aluma_async.destinations.router import DestinationRouter
from aluma_async.exceptions import ClaimConflict, ConfigError, DestinationError
from aluma_async.models import Claim, ExportSpec
from aluma_async.policy.routing import Route, Routing
from aluma_async.testing import MemoryDestination, check_destination
from tests.support.tasks import TASK, chunks, make_file


@pytest.mark.parametrize(
    ("route", "fits"),
    [
        (Route(("a",)), True),
        (Route(("a",), project="p1"), True),
        (Route(("a",), project="Invoices"), True),
        (Route(("a",), project="Receipts"), False),
        (Route(("a",), filename="*.CSV"), True),
        (Route(("a",), filename="*.pdf"), False),
        (Route(("a",), folder="o?t", filename="*"), True),
        (Route(("a",), folder="in"), False),
        (Route(("a",), source="url"), False),
        (Route(("a",), source="content"), True),
    ],
)
def test_a_route_takes_what_fits_all_that_it_names(route, fits):
    assert route.matches(TASK, make_file()) is fits


def test_the_first_route_that_fits_decides_then_the_default():
    routing = Routing((Route(("a", "b", "a"), filename="*.csv"), Route(("c",), folder="out")), "d")
    assert routing.destinations_for(TASK, make_file()) == ("a", "b")
    assert routing.destinations_for(TASK, make_file(filename="x.pdf")) == ("c",)
    assert routing.destinations_for(TASK, make_file(folder="in", filename="x.pdf")) == ("d",)


def test_a_file_that_fits_nowhere_is_no_reason_to_fail_its_task():
    with pytest.raises(DestinationError) as caught:
        Routing((Route(("a",), filename="*.csv"),)).destinations_for(TASK, make_file(filename="x.pdf"))
    assert caught.value.fatal_after is None
    assert "no route matches file 0" in str(caught.value)


def test_a_plan_names_what_is_possible_before_the_files_are_known():
    routes = (Route(("a",), project="Receipts"), Route(("b",), filename="*.csv"), Route(("c",)))
    assert list(Routing(routes, "d").possible_destinations(TASK)) == ["b", "c"]
    assert list(Routing(routes[:2], "d").possible_destinations(TASK)) == ["b", "d"]


def test_a_route_to_nowhere_is_a_mistake_in_the_config():
    folders = {"pdfs": FolderConfig(path=Path("a")), "tables": FolderConfig(path=Path("b"))}
    config = Config(destinations=folders, routes=(RouteConfig(to=("pdf",)),))
    with pytest.raises(ConfigError, match=r"\[\[routes\]\] 1: to = 'pdf'") as caught:
        config.routing()
    assert caught.value.hint == "Did you mean 'pdfs'?"


def test_routes_are_read_and_an_output_option_sends_everything_there():
    text = (
        "[[routes]]\nfilename = '*.pdf'\nto = ['a']\n"
        "[destinations.a]\ntype = 'folder'\npath = 'a'\n[destinations.b]\ntype = 'folder'\npath = 'b'"
    )
    assert Config.from_toml(text, "c.toml").routing().routes == (Route(("a",), filename="*.pdf"),)
    instead = {"destinations": {"default": {"type": "folder", "path": "c"}}}
    assert Config.from_toml(text, "c.toml", instead).routing() == Routing((), "default")
    for bad in ("routes = 3", "[[routes]]\nto = []", "[[routes]]\nto = ['a']\nfile = 'x'", "[[routes]]\nproject = 'p'"):
        with pytest.raises(ConfigError, match="routes"):
            Config.from_toml(bad, "c.toml")


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_it_keeps_the_contract_of_a_destination(names):
    inner = {"one": MemoryDestination(), "two": MemoryDestination()}

    def visible():
        found = [[data for task in inner[name].tasks for data in inner[name].contents(task)] for name in names]
        assert len({frozenset(Counter(each).items()) for each in found}) == 1, "both have the same"
        return found[0]

    anyio.run(check_destination, lambda: DestinationRouter(inner, Routing((Route(tuple(names)),))), visible)


def deliver(files, routing, inner, data=b"data"):
    async def main():
        async with DestinationRouter(inner, routing).open(Claim(TASK, ExportSpec(tuple(files)), 0.0)) as delivery:
            for each in files:
                await delivery.save(each, chunks(data))

    anyio.run(main)


def test_each_file_goes_where_its_route_says_and_nowhere_else():
    inner = {name: MemoryDestination() for name in ("tables", "archive", "unused")}
    files = [make_file(0), make_file(1, filename="b.pdf", source="url")]
    deliver(files, Routing((Route(("tables", "archive"), filename="*.csv"),), "archive"), inner)
    assert set(inner["tables"].tasks["t1"]) == {("out", "a.csv", 0)}
    assert set(inner["archive"].tasks["t1"]) == {("out", "a.csv", 0), ("out", "b.pdf", 1)}
    assert not inner["unused"].tasks


def test_where_one_destination_fails_the_error_is_its_and_the_others_stage_nothing():
    class Broken(MemoryDestination):
        @asynccontextmanager
        async def open(self, claim):
            async with super().open(claim) as delivery:

                async def save(file, chunks):
                    async for _ in chunks:
                        raise DestinationError("no room for this one")

                delivery.save = save
                yield delivery

    inner = {"good": MemoryDestination(), "broken": Broken()}
    with pytest.raises(DestinationError, match="no room"):
        deliver([make_file()], Routing((Route(("good", "broken")),)), inner, b"x" * 100)
    assert not inner["good"].tasks
    assert not inner["good"].open_deliveries


def test_a_download_that_breaks_off_is_told_as_it_is():
    async def main():
        inner = {"a": MemoryDestination(), "b": MemoryDestination()}
        async with DestinationRouter(inner, Routing((Route(("a", "b")),))).open(
            Claim(TASK, ExportSpec((make_file(),)), 0.0)
        ) as delivery:
            with pytest.raises(ClaimConflict, match="broken off"):
                await delivery.save(make_file(), chunks(b"half", ClaimConflict("broken off")))
            await delivery.save(make_file(), chunks(b"whole"))
        assert inner["a"].contents("t1") == inner["b"].contents("t1") == [b"whole"]

    anyio.run(main)
