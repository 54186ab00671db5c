"""An exporter without a fleet does not import the package."""

import subprocess
import sys


def test_exporter_without_a_fleet_imports_nothing_of_it():
    code = (
        "import sys, aluma_async, aluma_async.wiring, aluma_async.cli.main, aluma_async.cli.run\n"
        "print(sorted(name for name in sys.modules if name.startswith('aluma_async.fleet')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
