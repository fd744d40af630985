"""docs/quantizers.md names everything there is, and its figures are those of the file beside it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from codec.bench.quantizers import ENTRIES
from codec.build import PARTS
from codec.quantizers.codebook import INITS, OPTIONS

DOCS = Path(__file__).parents[1] / "docs"


def test_every_quantizer_and_every_option_has_a_row() -> None:
    page = (DOCS / "quantizers.md").read_text()
    for name in PARTS["quantizer"]:
        assert re.search(rf"^\| `{name}` \| [^|]+ \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE), name
    choice, found = "", []
    for first, option in re.findall(r"^\| (`\w+`)? ?\| `(\w+)` \|", page, re.MULTILINE):
        choice = first.strip("`") or choice
        found.append((choice, option))
    options = [(name, option) for name, many in OPTIONS.items() for option in many]
    assert sorted(found) == sorted([*options, *(("init", name) for name in INITS)])


def test_the_table_is_that_of_the_file() -> None:
    page = (DOCS / "quantizers.md").read_text()
    with (DOCS / "results" / "quantizers.csv").open() as file:
        rows = {(row["quantizer"], row["data"]): row for row in csv.DictReader(file)}
    assert list(dict.fromkeys(name for name, _ in rows)) == list(ENTRIES)
    for name in ENTRIES:
        white, latents = rows[name, "gaussian"], rows[name, "latents"]
        cells = re.search(rf"^\| `{re.escape(name)}` \| [\d, ]+ \| (.*) \|$", page, re.MULTILINE)
        assert cells is not None, name
        assert cells[1].split(" | ") == [
            f"{float(white['sqnr_db']):.2f}",
            f"{float(latents['sqnr_db']):.2f}",
            f"{float(latents['usage']):.0%}",
            f"{float(latents['ns_per_vector']):,.0f}",
            f"{float(latents['ms_per_step']):.1f}",
            f"{int(latents['parameters']):,}",
        ]


def test_the_code_in_the_page_runs() -> None:
    page = (DOCS / "quantizers.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
