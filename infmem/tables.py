"""Tables of recorded numbers: CSV files with fixed columns, written whole or not at all, and Markdown to show them."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infmem.checkpoint import write_text
from infmem.validation import require

CURVE_FIELDS = ("step", "loss", "accuracy")


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown.

    Args:
        head: names of the columns.
        lines: the cells of each line.

    Example:
        >>> print(markdown_table(["model", "accuracy"], [["window", ".2"]]))
        | model | accuracy |
        | --- | --- |
        | window | .2 |
    """
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def read_table(path: Path, fields: Sequence[str], what: str = "this table") -> list[dict[str, str]]:
    """The rows of a table; none if there is no file yet.

    Args:
        path: CSV file.
        fields: its columns.
        what: what it should be, for the error.

    Raises:
        ValueError: if it has other columns.

    Example:
        >>> read_table(Path("there-is-no-such-file.csv"), ["step"])
        []
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    require(
        tuple(reader.fieldnames or ()) == tuple(fields),
        f"{path} is not {what}, which begins with {','.join(fields)}: name another one",
    )
    return rows


def write_table(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table.

    Args:
        path: CSV file.
        fields: its columns.
        rows: with all of them.

    Raises:
        ValueError: if a row has other columns.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_curve(path: Path, rows: Sequence[Mapping[str, int | float]], every: int = 10) -> None:
    """Write a learning curve with one row for several steps, their means.

    Args:
        path: CSV file.
        rows: a run's metrics.
        every: steps to a row.
    """
    parts = [rows[end - every : end] for end in range(every, len(rows) + 1, every)]
    means = [{name: f"{sum(row[name] for row in part) / every:.4f}" for name in CURVE_FIELDS[1:]} for part in parts]
    write_table(
        path, CURVE_FIELDS, [{"step": part[-1]["step"]} | mean for part, mean in zip(parts, means, strict=True)]
    )
