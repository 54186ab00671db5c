"""Deterministic simulation: the real pipeline in virtual time, with faults and crashes from a seed.

Run schedules with ``python -m aluma_async.testing.simulation``; see ``--help``.
"""

from aluma_async.testing.simulation.plans import Plan, plan
from aluma_async.testing.simulation.schedule import Outcome, run_schedule

__all__ = ["Outcome", "Plan", "plan", "run_schedule"]
