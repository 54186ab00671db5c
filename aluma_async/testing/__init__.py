"""A simulated Aluma and what else it takes to try an exporter without an account; public and shipped."""

from aluma_async.testing.aluma import Behaviour, SimulatedAluma
from aluma_async.testing.app import serve, simulated_app
from aluma_async.testing.contracts import check_destination, check_memory, check_task_source
from aluma_async.testing.faults import Fault, FaultPlan
from aluma_async.testing.memory import MemoryDestination
from aluma_async.testing.source import SimulatedSource
from aluma_async.testing.virtual_time import run_virtual
from aluma_async.testing.wire import MemoryConnector
from aluma_async.testing.work import Work

__all__ = [
    "Behaviour",
    "Fault",
    "FaultPlan",
    "MemoryConnector",
    "MemoryDestination",
    "SimulatedAluma",
    "SimulatedSource",
    "Work",
    "check_destination",
    "check_memory",
    "check_task_source",
    "run_virtual",
    "serve",
    "simulated_app",
]
