"""Command line of the simulation: ``python -m aluma_async.testing.simulation --seed 0 --count 10000``."""

import subprocess
import time
from pathlib import Path

import click

from aluma_async.testing.simulation.full_stack import FullSchedule
from aluma_async.testing.simulation.parallel import run_many
from aluma_async.testing.simulation.plans import plan
from aluma_async.testing.simulation.schedule import Schedule
from aluma_async.testing.virtual_time import run_virtual


@click.command()
@click.option("--seed", type=int, default=0, show_default=True, help="First seed.")
@click.option("--count", type=click.IntRange(1), default=1000, show_default=True, help="Number of schedules.")
@click.option("--full", is_flag=True, help="Include HTTP (in memory), real files and SQLite.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Number of processes.  [default: one per core]")
@click.option("--trace", is_flag=True, help="Run only the first schedule and print its events.")
def main(*, seed: int, count: int, full: bool, jobs: int | None, trace: bool) -> None:
    """Simulate exporters with faults and crashes.

    Exits with status 1 if an invariant was violated.
    """
    if trace:
        outcome = run_virtual((FullSchedule if full else Schedule)(plan(seed), trace=True).run)
        for line in (*outcome.trace, *outcome.violations):
            click.echo(line)
        raise SystemExit(bool(outcome.violations))
    click.echo(f"commit {_commit()}, seeds {seed} to {seed + count - 1}{', full stack' if full else ''}")
    started_at, violating, completed = time.monotonic(), 0, 0
    for result in run_many(range(seed, seed + count), full=full, jobs=jobs):
        completed += result.schedules
        for failed, rules in result.broken:
            violating += 1
            click.echo(f"seed {failed}: " + "; ".join(rules[:3]))
    seconds = time.monotonic() - started_at
    speed = f"{completed / seconds * 60:.0f} per minute in {seconds:.0f} s"
    click.echo(f"{completed} schedules, {violating} with violations, {speed}")
    raise SystemExit(bool(violating))


def _commit() -> str:
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


if __name__ == "__main__":
    main()
