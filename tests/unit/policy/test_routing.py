"""``Routing``: the destinations of a file, by its task and its names."""

from pathlib import Path

import pytest

from aluma_async.config import Config, FolderConfig, RouteConfig
from aluma_async.exceptions import ConfigError, DestinationError
from aluma_async.models import ExportTask
from aluma_async.policy.routing import Route, Routing
from tests.support.tasks import TASK, make_file


@pytest.mark.parametrize(
    ("route", "matches"),
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
def test_route_matches_when_all_its_conditions_match(route, matches):
    assert route.matches(TASK, make_file()) is matches


def test_routing_uses_the_first_matching_route_then_the_default():
    routing = Routing((Route(("a", "b", "a"), filename="*.csv"), Route(("c",), folder="out")), "d")
    assert routing.destinations_for(TASK, make_file()) == ("a", "b")
    assert routing.destinations_for(TASK, make_file(filename="x.pdf")) == ("c",)
    assert routing.destinations_for(TASK, make_file(folder="in", filename="x.pdf")) == ("d",)


def test_routing_error_of_a_file_without_route_is_not_fatal():
    with pytest.raises(DestinationError) as caught:
        Routing((Route(("a",), filename="*.csv"),)).destinations_for(TASK, make_file(filename="x.pdf"))
    assert not caught.value.fatal
    assert "no route matches file 0" in str(caught.value)


BY_PROJECT = Routing((Route(("a",), filename="*.pdf"), Route(("secret",), project="p1", filename="*.csv")), "default")


@pytest.mark.parametrize("project", [("", ""), ("p2", ""), ("", "Receipts")])
def test_file_of_an_unknown_project_has_no_route_that_depends_on_it(project):
    """It must not go to the default destination, because the project could be that of the route."""
    task = ExportTask("t1", "a", *project)
    with pytest.raises(DestinationError, match="lacks the id or the name of its project") as caught:
        BY_PROJECT.destinations_for(task, make_file())
    assert "[[routes]]" in caught.value.hint
    assert BY_PROJECT.destinations_for(task, make_file(filename="x.pdf")) == ("a",)
    assert BY_PROJECT.destinations_for(task, make_file(filename="x.txt")) == ("default",)
    assert Routing((Route(("a",), filename="*.pdf"),), "default").destinations_for(task, make_file()) == ("default",)
    assert list(BY_PROJECT.possible_destinations(task)) == ["a"]


@pytest.mark.parametrize("project", [("p1", ""), ("p1", "Invoices")])
def test_file_of_a_known_project_has_its_route(project):
    task = ExportTask("t1", "a", *project)
    assert BY_PROJECT.destinations_for(task, make_file()) == ("secret",)
    assert BY_PROJECT.destinations_for(ExportTask("t1", "a", "p2", "Receipts"), make_file()) == ("default",)


def test_possible_destinations_need_no_files():
    routes = (Route(("a",), project="Receipts"), Route(("b",), filename="*.csv"), Route(("c",)))
    assert list(Routing(routes, "d").possible_destinations(TASK)) == ["b", "c"]
    assert list(Routing(routes[:2], "d").possible_destinations(TASK)) == ["b", "d"]


def test_route_to_an_unknown_destination_is_a_config_error():
    folders = {"pdfs": FolderConfig(path=Path("a")), "tables": FolderConfig(path=Path("b"))}
    config = Config(destinations=folders, routes=(RouteConfig(to=("pdf",)),))
    with pytest.raises(ConfigError, match=r"\[\[routes\]\] 1: to = 'pdf'") as caught:
        config.routing()
    assert caught.value.hint == "Did you mean 'pdfs'?"


def test_output_option_replaces_destinations_and_routes():
    text = (
        "[[routes]]\nfilename = '*.pdf'\nto = ['a']\n"
        "[destinations.a]\ntype = 'folder'\npath = 'a'\n[destinations.b]\ntype = 'folder'\npath = 'b'"
    )
    assert Config.from_toml(text, "c.toml").routing().routes == (Route(("a",), filename="*.pdf"),)
    output = {"destinations": {"default": {"type": "folder", "path": "c"}}}
    assert Config.from_toml(text, "c.toml", output).routing() == Routing((), "default")
    for bad in ("routes = 3", "[[routes]]\nto = []", "[[routes]]\nto = ['a']\nfile = 'x'", "[[routes]]\nproject = 'p'"):
        with pytest.raises(ConfigError, match="routes"):
            Config.from_toml(bad, "c.toml")


def test_possible_destinations_are_named_once_and_include_the_default():
    routes = (Route(("a", "b")), Route(("b", "c")))
    assert Routing(routes, "").possible_destinations(TASK) == ["a", "b"]
    assert Routing((Route(("a",), filename="*.x"),), "").possible_destinations(TASK) == ["a"]
    assert Routing((Route(("a",), filename="*.x"),), "d").possible_destinations(TASK) == ["a", "d"]
    assert Routing((Route(("a",), filename="*.x"),), "a").possible_destinations(TASK) == ["a"]
