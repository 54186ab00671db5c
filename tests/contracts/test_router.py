"""The router keeps the contract of a destination."""

from collections import Counter

import anyio
import pytest

from aluma_async.destinations.router import DestinationRouter
from aluma_async.policy.routing import Route, Routing
from aluma_async.testing import MemoryDestination, check_destination


@pytest.mark.parametrize(
    ("configured", "routing"),
    [
        (["one"], Routing((), "one")),  # a single destination for all files
        (["one", "two"], Routing((Route(("one",)),))),
        (["one", "two"], Routing((Route(("one", "two")),))),
    ],
)
def test_router_keeps_the_contract_of_a_destination(configured, routing):
    destinations = {name: MemoryDestination() for name in configured}
    used = routing.routes[0].to if routing.routes else ("one",)

    def visible():
        contents = [
            [data for task in destinations[name].tasks for data in destinations[name].contents(task)] for name in used
        ]
        assert len({frozenset(Counter(each).items()) for each in contents}) == 1, "both have the same files"
        return contents[0]

    anyio.run(check_destination, lambda: DestinationRouter(destinations, routing), visible)
