"""Command line of the mutation run: ``python -m tests.mutation --count 300 --seed 1``."""

import os
import queue
import random
import tempfile
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import click

from tests.mutation.baseline import Baseline
from tests.mutation.mutations import Mutation, find_in_packages
from tests.mutation.workspace import Workspace

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
PACKAGES = "policy,pipeline,journal,aluma"
MAX_SURVIVORS = {"fast": 0.15, "full": 0.05}


@click.command()
@click.option("--count", type=click.IntRange(1), default=300, show_default=True, help="Size of the random sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random sample.")
@click.option("--packages", default=PACKAGES, show_default=True, help="Packages of aluma_async, with commas.")
@click.option("--full", is_flag=True, help="Also run the simulation, integration tests and contracts.")
@click.option("--only", "ids", multiple=True, metavar="ID", help="Mutations to try, instead of a sample.")
@click.option("--list", "list_only", is_flag=True, help="Print the sample and run nothing.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, help="Number of processes.")
def main(*, count: int, seed: int, packages: str, full: bool, ids: tuple[str, ...], list_only: bool, jobs: int) -> None:
    """Run the tests on small mutations of the source and print those that no test notices.

    Exits with status 1 if more than 15 percent survive the unit tests, or 5 percent the full run.
    """
    mutations = sample(find_in_packages(ROOT, packages.split(",")), count, seed, ids)
    if list_only:
        for mutation in mutations:
            click.echo(mutation)
        return
    survivors = run(mutations, full=full, jobs=jobs)
    share = len(survivors) / max(1, len(mutations))
    click.echo(f"{len(mutations)} mutations, {len(survivors)} survivors ({share:.1%}), seed {seed}")
    for package, number in sorted(Counter(mutation.file.split("/")[1] for mutation in mutations).items()):
        alive = sum(mutation.file.split("/")[1] == package for mutation in survivors)
        click.echo(f"  {package:10} {number:4} mutations, {alive:3} survivors ({alive / number:.1%})")
    raise SystemExit(share > MAX_SURVIVORS["full" if full else "fast"])


def sample(found: list[Mutation], count: int, seed: int, ids: tuple[str, ...]) -> list[Mutation]:
    """Return the named mutations or a random sample of those that are not listed as equivalent."""
    if ids:
        return [mutation for mutation in found if mutation.id in ids]
    listed = equivalent()
    found = [mutation for mutation in found if key(mutation) not in listed]
    return random.Random(seed).sample(found, min(count, len(found)))


def equivalent() -> dict[tuple[str, str, str, str], str]:
    """Return the reasons of the mutations that change no behaviour, or none that a test can state."""
    entries = tomllib.loads(EQUIVALENT.read_text("utf-8")).get("equivalent", [])
    return {(entry["file"], entry["function"], entry["before"], entry["after"]): entry["reason"] for entry in entries}


def key(mutation: Mutation) -> tuple[str, str, str, str]:
    """Return the key of a mutation in the list of equivalent ones; it does not depend on line numbers."""
    return mutation.file, mutation.function, mutation.before, mutation.after


def run(mutations: list[Mutation], *, root: Path = ROOT, full: bool, jobs: int) -> list[Mutation]:
    """Try each mutation, print the survivors as they are found, and return them."""
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder, ThreadPoolExecutor(jobs) as pool:
        free: queue.Queue[Workspace] = queue.Queue()
        workspaces = [Workspace(root, Path(folder, str(number))) for number in range(jobs)]
        for workspace in workspaces:
            free.put(workspace)
        # Also those without a mutation, so that runs of any part of a sample share the records.
        packages = {*PACKAGES.split(","), *(mutation.file.split("/")[1] for mutation in mutations)}
        baseline = Baseline(root / ".mutation_cache", workspaces[0], packages)
        for test in baseline.record():
            click.echo(f"not used, because it does not pass without a mutation: {test}")

        def survives(mutation: Mutation) -> tuple[Mutation, bool, int]:
            workspace = free.get()
            try:
                tests = baseline.tests_of(mutation)
                return mutation, workspace.survives(mutation, tests, full=full), len(tests)
            finally:
                free.put(workspace)

        tried = as_completed([pool.submit(survives, mutation) for mutation in mutations])
        for number, done in enumerate(tried, 1):
            mutation, alive, tests = done.result()
            if number % 25 == 0:
                click.echo(f"{number} of {len(mutations)} tried, {len(survivors)} survivors", err=True)
            if alive:
                survivors.append(mutation)
                click.echo(f"{mutation}\n    {tests} unit tests")
        for workspace in workspaces:
            workspace.close()
    return survivors


if __name__ == "__main__":
    main()
