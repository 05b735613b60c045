"""Mutants: a planted mistake in each rule that matters must make the tests of that rule fail.

Each runs the named tests in a copy of the code that differs by one line. The unchanged copy passes first.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants_people import PEOPLE

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "core", "schemas", "operators", "features", "models", "pipelines", "jobs", "gateway", "stack", "cli",
    "bench",
)  # fmt: skip
MUTANTS = {
    "80 blocks": (
        "operators/decide.py",
        "values > given.above",
        "values >= given.above",
        "tests/operators/test_decide.py",
    ),
    "repeats in a batch": ("operators/dedupe.py", "and key not in met", "", "tests/operators/test_dedupe.py"),
    "repeats over batches": (
        "operators/dedupe.py",
        "self._seen.update(new)",
        "pass",
        "tests/operators/test_dedupe.py",
    ),
    "a score above one": (
        "operators/infer.py",
        "& (outputs <= high)",
        "",
        "tests/operators/test_infer.py",
    ),
    "a burst that is saved up": (
        "operators/limits.py",
        "max(self._paid_at.get(key, now) - now, 0.0)",
        "(self._paid_at.get(key, now) - now)",
        "tests/operators/test_limits.py",
    ),
    "a batch that costs one": (
        "gateway/events.py",
        "door.pipeline, len(bodies.raw)",
        "door.pipeline, 1",
        "tests/gateway/test_events.py",
    ),
    "a limit for all pipelines": (
        "gateway/limits.py",
        "key_of(tenant, pipeline)",
        'key_of(tenant, "")',
        "tests/gateway/test_limits.py",
    ),
    "an audit entry that was changed": (
        "pipelines/audit/verify.py",
        "if digest_of(entry) == entry.hash and entry.id",
        "if entry.id",
        "tests/pipelines/audit",
    ),
    "an audit entry that does not follow": (
        "pipelines/audit/verify.py",
        "and entry.previous != self.previous",
        "and False",
        "tests/pipelines/audit",
    ),
    "an audit entry that nobody acknowledged": (
        "pipelines/audit/writer.py",
        "self._outbox.settle()",
        "pass",
        "tests/pipelines/audit",
    ),
    "a change that cannot be told": (
        "gateway/audit/watch.py",
        'stage="not begun"))\n            raise',
        'stage="not begun"))',
        "tests/gateway/audit",
    ),
    "a flood of kinds of refusals": (
        "gateway/audit/folding.py",
        "len(self._open) >= MOST_KINDS",
        "False",
        "tests/gateway/audit",
    ),
    "what was leased and not spent in time": (
        "operators/leases.py",
        "if now >= block.ends_at:",
        "if False:",
        "tests/operators/test_leases.py",
    ),
    "an address that a client made up": (
        "gateway/addresses.py",
        "if not self._is_trusted(nearest):",
        "if False:",
        "tests/gateway/test_addresses.py",
    ),
    "a key that its issuer withdrew": (
        "gateway/tokens.py",
        "return lasts and self._keys.holds(",
        "return lasts or self._keys.holds(",
        "tests/gateway/test_tokens.py",
    ),
    "one id for all pipelines": (
        "gateway/acceptance.py",
        "entity_of((tenant, pipeline, id))",
        'entity_of((tenant, "", id))',
        "tests/gateway/test_events.py",
    ),
    "a history without the rest of its topic": (
        "features/offline/training.py",
        "' UNION ALL BY NAME '.join(parts)",
        "parts[0]",
        "tests/features/test_training_sources.py",
    ),
    "a pass of corrections that never ends": (
        "jobs/batch/corrections.py",
        "timeout=self._settings.limit_s",
        "timeout=None",
        "tests/jobs/batch/test_corrections.py",
    ),
    "a window's far end": (
        "features/online/rows.py",
        "since = at_ms - over_ms",
        "since = at_ms - self.longest_ms",
        "tests/features/test_rolling_in_memory.py",
    ),
    "a feature's own time to live": (
        "features/online/rows.py",
        "age > one.ttl_ms",
        "False",
        "tests/features/test_rolling_in_memory.py",
    ),
    "rows that may be gone": (
        "features/online/rows.py",
        "since < stored.newest - self.ttl_ms",
        "False",
        "tests/features/test_rolling_in_memory.py",
    ),
    "a window that was closed and has no row": (
        "features/judge/verify_windows.py",
        "int((~found & ~open_).sum())",
        "0",
        "tests/features/test_verify_windows.py::test_rows_that_are_lost_or_from_nowhere_are_found",
    ),
    "a correction": (
        "features/judge/verify_windows.py",
        "sequence > known[0]",
        "False",
        "tests/features/test_verify_windows.py::test_of_a_window_the_highest_sequence_counts",
    ),
    "something that reads as missing": (
        "features/judge/verify_requests.py",
        "missing += 1",
        "pass",
        "tests/features/test_verify_requests.py::test_rows_that_are_wrong_in_the_store_are_found",
    ),
    "a window without its first moment": (
        "features/online/rows.py",
        "bisect_left(times, since)",
        "bisect_right(times, since)",
        "tests/features/test_rolling_in_memory.py",
    ),
    "the judge's window": (
        "features/compile/duckdb.py",
        "PRECEDING AND CURRENT ROW",
        "PRECEDING AND 1 PRECEDING",
        "tests/features/test_history.py",
    ),
    "an average over a window too many": (
        "features/compile/duckdb.py",
        "{ms - 1} PRECEDING",
        "{ms} PRECEDING",
        "tests/features/test_regional_demand.py",
    ),
    "an absent window that is not known": (
        "features/compile/duckdb_values.py",
        "_or_empty(view.feature(name), f",
        "str(f",
        "tests/features/test_regional_demand.py",
    ),
    "a filter of nulls": (
        "features/compile/conditions.py",
        "IS NULL",
        "IS NOT NULL",
        "tests/features/test_filters.py",
    ),
    "a view that Flink cannot run": (
        "features/plain.py",
        "if reasons:",
        "if False:",
        "tests/features/test_refusals.py",
    ),
    "a changed meaning": (
        "features/identity.py",
        'form["where"] = _condition(aggregate.where)',
        "pass",
        "tests/features/test_identity.py",
    ),
    "a clock that overtakes": (
        "jobs/on_flink/clock.py",
        "target = self.newest - self.disorder_ms",
        "target = self.newest",
        "tests/jobs/on_flink/test_clock.py",
    ),
    "a position of somebody else": (
        "gateway/push/positions.py",
        "message = struct.pack(\">I\", len(who)) + who + ",
        "message = ",
        "tests/gateway/test_positions.py",
    ),
    "a gap that is not told": (
        "gateway/push/ring.py",
        "return offset + 1 >= self.floor",
        "return True",
        "tests/gateway/test_hub.py",
    ),
    "an older status": (
        "gateway/push/hub.py",
        "held[1].rank >= entry.rank",
        "held[1].rank < 0",
        "tests/gateway/test_hub.py",
    ),
    "a foreign tenant": (
        "gateway/intake.py",
        '"tenant" in given and given["tenant"] != tenant',
        "False",
        "tests/gateway/test_intake.py",
    ),
    "a damaged model": (
        "models/store.py",
        "if found != entry.sha256:",
        "if False:",
        "tests/models/test_store.py tests/models/test_load.py",
    ),
    "a model that answers otherwise": (
        "models/golden.py",
        "<= TOLERANCE",
        "<= 1",
        "tests/models/test_load.py",
    ),
    "a wrong digest": (
        "stack/artifacts.py",
        "if found != artifact.sha256:",
        "if False:",
        "tests/stack/test_artifacts.py",
    ),
    "an event too large": (
        "schemas/codec/record_codec.py",
        "longest > self.max_bytes or ",
        "",
        "tests/schemas/test_codec.py",
    ),
    "lateness beyond the promise": (
        "cli/demo/figures.py",
        '0.01 * report["accepted"]',
        'report["accepted"]',
        "tests/cli/test_figures.py",
    ),
}  # fmt: skip
MUTANTS |= PEOPLE


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("mutants")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in (*PACKAGES, "tests", "flink-conf"):
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in ("pyproject.toml", "millstream", "requirements.lock", "README.md"):
        shutil.copy2(ROOT / name, target / name)
    return target


def run(copy: Path, tests: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MILLSTREAM_REQUIRE_SERVICES"}
    command = [
        *(sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
        *("-m", "not services and not full"),
        *tests.split(),
    ]
    return subprocess.run(
        command,
        cwd=copy,
        env={**environment, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_unchanged_copy_passes(copy: Path) -> None:
    tests = " ".join(sorted({test for *_, names in MUTANTS.values() for test in names.split()}))
    done = run(copy, tests)
    assert done.returncode == 0, done.stdout[-3000:]
    where = [sys.executable, "-c", "import operators.decide as m; print(m.__file__)"]
    found = subprocess.run(
        where,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(copy / "operators/decide.py"), "the copy is what is tested"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str, copy: Path) -> None:
    file, right, wrong, tests = MUTANTS[name]
    source = copy / file
    text = source.read_text()
    assert text.count(right) >= 1, f"{file} has no {right!r} any more"
    source.write_text(text.replace(right, wrong))
    try:
        done = run(copy, tests)
    finally:
        source.write_text(text)
    assert done.returncode == 1, f"nothing noticed:\n{done.stdout[-2000:]}"
