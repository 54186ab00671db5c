"""Public tools for testing without an account: a simulated Aluma, faults, contract checks and virtual time."""

from aluma_async.testing.behaviour import Behaviour
from aluma_async.testing.destination import MemoryDestination
from aluma_async.testing.destination_contract import check_destination, check_memory
from aluma_async.testing.faults import Fault, FaultPlan
from aluma_async.testing.fleet import SimulatedFleetStore
from aluma_async.testing.fleet_contract import check_fleet_store
from aluma_async.testing.http_app import serve, simulated_app
from aluma_async.testing.memory_connector import MemoryConnector
from aluma_async.testing.sample_data import SampleData
from aluma_async.testing.simulator import SimulatedAluma
from aluma_async.testing.source import SimulatedSource
from aluma_async.testing.source_contract import check_task_source
from aluma_async.testing.virtual_time import run_virtual

__all__ = [
    "Behaviour",
    "Fault",
    "FaultPlan",
    "MemoryConnector",
    "MemoryDestination",
    "SampleData",
    "SimulatedAluma",
    "SimulatedFleetStore",
    "SimulatedSource",
    "check_destination",
    "check_fleet_store",
    "check_memory",
    "check_task_source",
    "run_virtual",
    "serve",
    "simulated_app",
]
