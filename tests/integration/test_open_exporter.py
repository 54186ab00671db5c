"""``open_exporter``: the parts that a program may pass in place of those that the configuration describes."""

import asyncio

import pytest

from aluma_async import Config, Credentials, RetryPolicy, events, open_exporter
from aluma_async.config import AlumaConfig, ExporterConfig, FolderConfig
from aluma_async.exceptions import DestinationError
from aluma_async.journal.reader import read_history
from aluma_async.models import Timestamp
from aluma_async.testing import Fault, FaultPlan, SimulatedSource, simulated_app
from tests.support.clock import real_time
from tests.support.folders import exported_files
from tests.support.stack import BASE_URL, app_session, simulated


def config_of(folder, **aluma):
    return Config(
        aluma=AlumaConfig(allow_insecure=True, **aluma),
        exporter=ExporterConfig(state=folder / "state"),
        destinations={"default": FolderConfig(path=folder / "out")},
    )


@real_time
async def test_open_exporter_needs_no_credentials_with_a_source(tmp_path, monkeypatch):
    monkeypatch.delenv("ALUMA_CLIENT_SECRET", raising=False)
    aluma = simulated(5)
    async with open_exporter(config_of(tmp_path), source=SimulatedSource(aluma)) as exporter:
        assert (await exporter.run_until_drained()).exported == 5
        assert exporter.outage().seconds == 0
    assert aluma.count_by_state() == {"completed": 5}
    assert exported_files(tmp_path / "out")


@real_time
async def test_open_exporter_selects_tasks_of_a_source(tmp_path):
    aluma = simulated(5)
    chosen = aluma.ids()[2]
    async with open_exporter(
        config_of(tmp_path), source=SimulatedSource(aluma), select=lambda task: task.id == chosen
    ) as exporter:
        assert (await exporter.run_until_drained()).exported == 1
    assert aluma.ids("completed") == [chosen]


@real_time
async def test_open_exporter_uses_the_session_of_the_caller_and_leaves_it_open(tmp_path):
    aluma = simulated(5)
    credentials = Credentials(aluma.client_id, aluma.client_secret)
    async with app_session(simulated_app(aluma, None, "/v1")) as session:
        async with open_exporter(config_of(tmp_path, base_url=BASE_URL), credentials, session=session) as exporter:
            assert (await exporter.run_until_drained()).exported == 5
        assert not session.closed


@pytest.mark.parametrize("more", ["session", "credentials"])
@real_time
async def test_open_exporter_refuses_a_source_together_with_what_it_ignores(tmp_path, more):
    """A caller that passes both expects both to be used."""
    with pytest.raises(ValueError, match="source"):
        async with open_exporter(config_of(tmp_path), source=SimulatedSource(simulated(1)), **{more: object()}):
            pass


@real_time
async def test_open_exporter_repeats_requests_as_the_caller_wants(tmp_path):
    delays = []

    def on_event(event):
        if isinstance(event, events.RequestRetried):
            delays.append(event.delay)

    faults = FaultPlan()
    faults.plan("list", [Fault.DROP_BEFORE] * 3)
    source = SimulatedSource(simulated(3), faults)
    retry = RetryPolicy(4, 0.001, 0.002)
    async with open_exporter(config_of(tmp_path), source=source, retry=retry, on_event=on_event) as exporter:
        assert (await exporter.run_until_drained()).exported == 3
    assert len(delays) == 3
    assert max(delays) <= 0.002


@real_time
async def test_open_exporter_records_times_of_the_clock_of_the_caller(tmp_path):
    async with open_exporter(
        config_of(tmp_path), source=SimulatedSource(simulated(2)), clock=lambda: Timestamp("boot", 1.0, 123456.0)
    ) as exporter:
        await exporter.run_until_drained()
    assert {record.at for record in read_history(tmp_path / "state")} == {123456.0}


@real_time
async def test_open_exporter_awaits_before_complete(tmp_path):
    aluma, seen = simulated(3), {}

    async def refuse_one(claim):
        files = exported_files(tmp_path / "out")
        seen[claim.task.id] = len(files)
        if len(seen) == 2:
            raise DestinationError("the archive refuses it")

    async with open_exporter(
        config_of(tmp_path), source=SimulatedSource(aluma), before_complete=refuse_one
    ) as exporter:
        summary = await exporter.run_until_drained()
    assert (summary.exported, summary.held_back) == (2, 1)
    assert len(seen) == 3
    assert min(seen.values()) >= 1, "the files of the task are in their place"


@real_time
async def test_open_exporter_logs_a_failing_listener_once(tmp_path):
    """Whichever part emits the event: the client, the throttle, the journal or the exporter itself."""
    reported, kinds = [], set()

    def on_event(event):
        kinds.add(type(event))
        raise LookupError(type(event).__name__)

    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    aluma = simulated(30, malformed_row=True)
    credentials = Credentials(aluma.client_id, aluma.client_secret)
    faults = FaultPlan()
    faults.plan("list", [Fault.THROTTLE])
    async with app_session(simulated_app(aluma, faults, "/v1")) as session:
        config = config_of(tmp_path, base_url=BASE_URL)
        async with open_exporter(config, credentials, session=session, on_event=on_event) as exporter:
            assert (await exporter.run_until_drained()).exported == 30
    assert {events.RowSkipped, events.RequestsPaused, events.TaskCompleted} <= kinds
    assert [type(error) for error in reported] == [LookupError]
