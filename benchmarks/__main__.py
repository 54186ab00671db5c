"""Compares the exporter with other clients, in turns, on this machine.

Compare ratios, not rates, and CPU time, not elapsed time, because the server runs on the same cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks import plot
from benchmarks.profile import profile
from benchmarks.scenarios import SHM, Result, run, scenarios, spread


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument("command", nargs="?", choices=["run", "compare", "profile"], default="run")
    arguments.add_argument("revision", nargs="?", help="for compare: the revision to compare with this tree")
    arguments.add_argument("--quick", action="store_true", help="fewer tasks and scenarios: less than two minutes")
    arguments.add_argument("--tiny", action="store_true", help="tiny loads: only check that everything runs")
    arguments.add_argument("--only", default="", help="only scenarios whose name contains this")
    arguments.add_argument("--repeat", type=int, default=0, help="runs per contender (default: 5, with --quick 2)")
    arguments.add_argument("--folder", type=Path, help="folder for the scenarios on disk (default: a temporary folder)")
    arguments.add_argument("--json", type=Path, help="write all figures to this file")
    arguments.add_argument("--plot", type=Path, help="draw the figures into this file (.png, .svg); needs matplotlib")
    options = arguments.parse_args()
    if options.command == "profile":
        print(profile())
        return
    if options.command == "compare":
        if not options.revision:
            arguments.error("compare needs a revision")
        compare(options.revision, only=options.only or "small", repeat=options.repeat or 3)
        return
    results = run_all(options)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    if options.plot:
        plot.draw(results, options.plot)


def run_all(options: argparse.Namespace) -> list[Result]:
    repeat = options.repeat or (1 if options.tiny else 2 if options.quick else 5)
    results: list[Result] = []
    print(f"{'':26}{'':22}{'value':>10} {'':8}{'ratio':>7}  {'(spread)':12}{'CPU ms/task':>12}{'ratio':>7}", flush=True)
    for scenario in scenarios(quick=options.quick, tiny=options.tiny):
        if options.only in scenario.name:
            memory = SHM if SHM.is_dir() else None
            with tempfile.TemporaryDirectory(dir=options.folder if scenario.on_disk else memory) as folder:
                measured = run(scenario, Path(folder), repeat, report)
            print(table(measured), flush=True)
            results += measured
    return results


def report(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif "skipped" in line:
        print(line, file=sys.stderr)


def table(results: list[Result]) -> str:
    """Return one line per contender."""
    lines = []
    for result in results:
        lines.append(
            f"{result.scenario:26}{result.contender:22}{result.value:10.1f} {result.unit.lstrip('-'):8}"
            f"{result.ratio:7.2f}  {spread(result.ratios):12}{statistics.median(result.cpus):12.3f}"
            f"{result.cpu_ratio:7.2f}"
        )
    return "\n".join(lines)


def compare(revision: str, *, only: str, repeat: int) -> None:
    """Run another revision and this tree in turns, both with the benchmarks of this tree."""
    here = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", str(other), revision], cwd=here, check=True)
        try:
            for turn in range(repeat):
                for name, tree in ((revision, other), ("this tree", here)):
                    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", only, "--repeat", "1"]
                    package = Path(folder) / "package" / "aluma_async"  # of that tree; benchmarks of this one
                    package.parent.mkdir(exist_ok=True)
                    package.unlink(missing_ok=True)
                    package.symlink_to(tree / "aluma_async")
                    path = {**os.environ, "PYTHONPATH": f"{package.parent}:{here}"}
                    done = subprocess.run(command, cwd=folder, env=path, check=False, capture_output=True, text=True)
                    if done.returncode:
                        raise SystemExit(
                            f"{name}: the benchmarks of this tree do not run with it: {done.stderr.strip()[-500:]}\n"
                            "Names may have changed in between; run each tree with its own benchmarks instead."
                        )
                    print(f"== {name}, {turn + 1} of {repeat}\n{done.stdout}")
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=here, check=True)


if __name__ == "__main__":
    main()
