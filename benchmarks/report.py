"""Make BENCHMARKS.md from the files in benchmarks/results.

python benchmarks/report.py
"""

import json
from pathlib import Path

from common import RESULTS

HEAD = """# Benchmarks

Made by `python benchmarks/report.py` from `benchmarks/results/`; each script there says how it \
measures. Every figure is the
median over rounds in which the sides took turns on one machine. *Wanted* is what we set out to reach.

| measured | value | wanted | machine | versions | rounds |
|---|---|---|---|---|---|
"""


def line(found: dict, row: dict) -> str:
    """Return one row of the table."""
    where = found.get("gpu") or f"{found['processor']}, {found['cores']} cores"
    precision = f", {found['precision']}" if "precision" in found else ""
    versions = f"torch {found['torch']}, commit {found['commit']}, {found['day']}"
    cells = (
        row["what"] + precision,
        f"{row['value']:.3g} {row['unit']}",
        row.get("target", ""),
        where,
        versions,
        str(found["rounds"]),
    )
    return f"| {' | '.join(cells)} |\n"


def text(folder: Path = RESULTS) -> str:
    """Return the whole page."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return HEAD + "".join(line(f, row) for f in found for row in f["rows"])


if __name__ == "__main__":
    (Path(__file__).parent.parent / "BENCHMARKS.md").write_text(text())
