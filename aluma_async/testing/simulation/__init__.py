"""Deterministic simulation: the shipped pipeline under faults and crashes from a seed, in virtual time.

``python -m aluma_async.testing.simulation --help`` runs any number of schedules.
"""

from aluma_async.testing.simulation.schedule import Outcome, Plan, plan, run_schedule

__all__ = ["Outcome", "Plan", "plan", "run_schedule"]
