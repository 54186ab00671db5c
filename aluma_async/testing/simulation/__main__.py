"""Run schedules by the thousand: ``python -m aluma_async.testing.simulation --seed 0 --count 10000``."""

import subprocess
import time
from pathlib import Path

import click

from aluma_async.testing.simulation.full_stack import FullSchedule
from aluma_async.testing.simulation.parallel import run_many
from aluma_async.testing.simulation.schedule import Schedule, plan
from aluma_async.testing.virtual_time import run_virtual


@click.command()
@click.option("--seed", type=int, default=0, show_default=True, help="The first one.")
@click.option("--count", type=click.IntRange(1), default=1000, show_default=True, help="How many schedules.")
@click.option("--full", is_flag=True, help="The whole stack: HTTP on an in-memory wire, real files and SQLite.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes.  [default: one a core]")
@click.option("--trace", is_flag=True, help="Run just the first one and tell all that happens in it.")
def main(*, seed: int, count: int, full: bool, jobs: int | None, trace: bool) -> None:
    """Try exporters under faults and crashes from seeds; exit 1 if a rule was broken."""
    if trace:
        outcome = run_virtual((FullSchedule if full else Schedule)(plan(seed), trace=True).run)
        for line in (*outcome.trace, *outcome.violations):
            click.echo(line)
        raise SystemExit(bool(outcome.violations))
    click.echo(f"commit {_commit()}, seeds {seed} to {seed + count - 1}{', full stack' if full else ''}")
    started_at, bad, done = time.monotonic(), 0, 0
    for result in run_many(range(seed, seed + count), full=full, jobs=jobs):
        done += result.schedules
        for failed, rules in result.broken:
            bad += 1
            click.echo(f"seed {failed}: " + "; ".join(rules[:3]))
    seconds = time.monotonic() - started_at
    click.echo(f"{done} schedules, {bad} broke a rule, {done / seconds * 60:.0f} a minute in {seconds:.0f} s")
    raise SystemExit(bool(bad))


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    main()
