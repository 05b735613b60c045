"""Results on disk: every run appended to `results.jsonl`, the latest of each as a table in README.md."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.harness import BenchResult
from core.clock import Clock, SystemClock

FOLDER = Path(__file__).parent
RESULTS = "results.jsonl"
TABLE = "README.md"

HEAD = """# Benchmarks

Each compares with a named peer in one run: equal results first, order A B B A, at least five rounds, the
median of the per-round ratios with minimum and maximum. An A/A control marks a run invalid when the machine
was too noisy. Run one with `./millstream bench NAME`; this file is written from `results.jsonl`.

Parts of `features`, `models` and `gateway` run alone as `python -m bench.gateway_push` and so on, which keeps
no result. Of `gateway` memory is watched for two minutes; `python -m bench.gateway_memory` does so for ten,
`python -m bench.gateway_memory SECONDS` for as long as you say.
"""


def keep(result: BenchResult, *, folder: Path = FOLDER, clock: Clock | None = None) -> None:
    """Append the result and write the table anew."""
    line = {"at": (clock or SystemClock()).now().isoformat(timespec="seconds"), **result.as_json()}
    with (folder / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_table(folder)


def write_table(folder: Path = FOLDER) -> None:
    """README.md from the latest valid result of each bench (the latest of all where none is valid)."""
    text = HEAD + "".join(_section(result) for result in latest(_read(folder / RESULTS)))
    new = folder / f"{TABLE}.new"
    new.write_text(text, encoding="utf-8")
    os.replace(new, folder / TABLE)


def latest(results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One result of each bench, in the order of their names."""
    chosen: dict[str, Mapping[str, Any]] = {}
    for result in results:
        before = chosen.get(result["bench"])
        if before is None or result["valid"] or not before["valid"]:
            chosen[result["bench"]] = result
    return [chosen[name] for name in sorted(chosen)]


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _section(result: Mapping[str, Any]) -> str:
    lines = [f"\n## {result['bench']}\n"]
    if not result["valid"]:
        lines.append("**Invalid: the A/A control says that the machine was too noisy.**\n")
    lines += ["| ratio | median | min | max | goal | met | what it is |", "|---|---|---|---|---|---|---|"]
    meanings = result.get("meanings", {})
    for name, ratio in result["ratios"].items():
        goal = "-" if ratio["goal"] is None else f"{ratio['goal']:g}"
        numbers = " | ".join(f"{ratio[key]:.2f}" for key in ("median", "min", "max"))
        met = "yes" if ratio["met"] else "**no**"
        lines.append(f"| {name} | {numbers} | {goal} | {met} | {meanings.get(name, '')} |")
    if result.get("figures"):
        lines += ["", "| figure | value |", "|---|---|"]
        lines += [f"| {name} | {value:g} |" for name, value in result["figures"].items()]
    sizes = ", ".join(f"{name} {value}" for name, value in result.get("sizes", {}).items())
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    lines += ["", f"Measured {result['at']}. Sizes: {sizes or '-'}. Versions: {versions}.", ""]
    return "\n".join(lines)
