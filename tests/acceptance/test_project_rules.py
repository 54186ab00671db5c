"""The rules of the project: layers, types, style, file sizes and the names that were replaced."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import aluma_async
from tests.support.files import ROOT

BIN = Path(sys.executable).parent
PACKAGE = ROOT / "aluma_async"
MAX_LINES = 350

REPLACED_NAMES = """
    Rounds _Round _lead _crowded TimeLimit _Limited OpenClaim deciding _HOMES open_run _yours
    Patience Pace _SLOWER _INFLATION _PROBE_PAUSES Verdict flaw Standing DOUBTFUL CLAIM_SHARE GRACE_SECONDS
    OWN_FOLDER LONGEST_PART DEEPEST _made_safe _shortened _fitting
    Desk SETTLED_SECONDS Carrier _Once _Meter files_at_once Resilient Ledger loosen unheard doubted UNHEARD_SECONDS
    _AT_WORK _NEVER last_word speaks_of _UNHEARD_TRIES _LAST_SECONDS _low_water _suspects_wait _trials
    CLAIMS_A_WORKER GIVE_BACK_SECONDS _in_time _may_begin _employ _end_listing _limit_drain
    _hand_on _open_at _UNTOLD_PAUSE sqlite_journal _hop _untrimmed _ASIDE HEARS went_to MOST_TASKS MOST_SECONDS
    keeper token_refused LONGEST_REQUEST at_home NO_ANSWER no_replay check_resumption _EPILOGUE_SECONDS
    TokenKeeper RENEW_AT _Slowest MOST_REDIRECTS _Envelope _one_by_one _CUTS
    Routed _drink Spooled manifest.Stored find_kept take_back is_there give_names give_manifest find_places may_be_kept
    _take_back _take_back_names Places _set_aside finish_file write_pieces Offload _told put_whole put_parts
    _GivenUp _OnItsWay _Placed _make_ours _misfit _Borrowed may_pass _AGAIN
    BadValue read_table HIDDEN without_password needs_restart url_fault _read_special
    Tally InHand Vitals _signs _unlisted _unsaved Folding give_back_terminal Painter _bad_news why_left
    nothing_claimed NotTold _notable TELL_SECONDS _sign_of_life _owed _NOTES _settle_log
    said_where _unless_quiet _Listed leave_now on_hangup _overlooked _SAID_BY_THE_NEXT_RUN _invitation _complain
    _ON_THEIR_OWN LEFT_BEHIND NOT_REACHABLE list_waiting _refuse_lost_options _slowest_report
    Witness oracles PROMPT_SECONDS PATIENCE_SECONDS _look_at_files SleepForeverError _bury _take_apart
    _give_up _let_go
    Refused BadReply DoesNotFit ImpossibleExport JournalInUse CredentialsRefused
    QueueListed PauseProlonged RequestsHeldBack FailingStopped TaskRefused FileSaved LimitChanged ClaimDeferred
    ClaimAbandoned stuck_seconds oldest_task_seconds
"""
"""Names that were replaced by standard terms. Only the CHANGELOG and strings (stored keys) may contain them."""


@pytest.mark.parametrize(
    "command",
    [
        ["lint-imports", "--no-cache"],
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        ["mypy", "--no-incremental"],
    ],
    ids=lambda command: command[0] + ("-format" if "format" in command else ""),
)
def test_linter_reports_no_problem(command):
    result = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


def test_public_names_can_be_imported():
    names = (
        "Exporter open_exporter Config AlumaClient FolderDestination TaskSource Destination Delivery events exceptions"
    )
    assert set(names.split()) <= set(aluma_async.__all__)
    assert all(hasattr(aluma_async, name) for name in aluma_async.__all__)
    assert (PACKAGE / "py.typed").exists()


def test_version_has_one_source_and_a_changelog_entry():
    assert f"## [{aluma_async.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"] == ["version"]


def test_clock_random_and_print_are_used_only_where_allowed():
    """Time comes from the event loop and random numbers are arguments, so that runs are repeatable in virtual time."""
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0]
        if package in ("cli", "service", "testing") or path.name == "clock.py":
            continue
        text = path.read_text()
        for pattern in (
            r"\btime\.(time|monotonic|sleep)\(",
            r"\brandom\.random\(",
            r"datetime\.now\(",
            r"\bprint\(",
            "uuid4",
        ):
            assert not re.search(pattern, text), f"{path}: {pattern}"


def test_no_file_of_the_package_is_longer_than_the_limit():
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {path: count for path, count in lines.items() if count > MAX_LINES}


def test_package_init_files_contain_no_code():
    """An ``__init__`` has a docstring and re-exports names; only the top one also loads names lazily."""
    for path in PACKAGE.rglob("*/__init__.py"):
        assert not re.search(r"^(async def|def|class) ", path.read_text(), re.MULTILINE), path


def test_replaced_names_do_not_occur():
    pattern = re.compile(r"(?<![\w\"-])(" + "|".join(map(re.escape, REPLACED_NAMES.split())) + r")(?!\w)")
    paths = [path for folder in ("aluma_async", "tests", "benchmarks") for path in (ROOT / folder).rglob("*")]
    paths += [ROOT / name for name in ("README.md", "config.example.toml", "pyproject.toml")]
    found = []
    for path in paths:
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".in") and path != Path(__file__):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                found += [f"{path.relative_to(ROOT)}:{number}: {match[1]}" for match in pattern.finditer(line)]
    assert not found, "\n".join(found)
