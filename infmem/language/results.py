"""What the experiments on language have recorded, read back: mean over seeds, by position, and as tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from infmem.language.cells import KEY
from infmem.language.evaluation import MemoryUse
from infmem.language.experiment import COMPARED_FIELDS, FIELDS, POSITION_FIELDS
from infmem.tables import markdown_table, read_table
from infmem.validation import require

ExperimentName = Literal["language", "language_finetuned"]
BASELINES: dict[ExperimentName, str] = {"language": "transformer-xl", "language_finetuned": "gpt2"}
COMMANDS: dict[ExperimentName, str] = {
    "language": "infmem language experiment",
    "language_finetuned": "infmem language finetune",
}
USES: tuple[MemoryUse, ...] = ("on", "off", "shuffled")

# What all trainings must share that are shown side by side; each has the learning rate that suits it best.
SHARED = ("size", "optimizer", "steps", "split", "corpus_hash")


class Score(NamedTuple):
    """A perplexity, or the ratio of two.

    Args:
        value: mean over the seeds; nan if a training came apart.
        low: lower end of the lowest 95 % interval of a seed.
        high: upper end of the highest.
        seeds: how many.
    """

    value: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        """As it stands in a table.

        Example:
            >>> print(Score(22.456, 21.0, 24.0, 2), Score(0.9912, 0.981, 1.002, 2), Score(math.nan, 1.0, 1.0, 1))
            22.46 (21.00 to 24.00) 0.991 (0.981 to 1.002) came apart
        """
        if math.isnan(self.value):
            return "came apart"
        digits = 2 if self.value >= 5 else 3 if self.high - self.low >= 0.005 else 4
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True)
class Results:
    """An experiment as it is recorded; empty if nothing is.

    Args:
        experiment: which one.
        scores: perplexity of each model and use of its memory.
        positions: for each model and use the ranges of positions, rows with `start`, `end`, `ppl`, `low` and `high`.
        ratios: by which factor each model's perplexity is that of the baseline.
        worth: by which factor it rises for each model and use of its memory but `on`.
        parameters: of each model.
        about: what all trainings share, by the names of the columns.
    """

    experiment: ExperimentName
    scores: dict[tuple[str, MemoryUse], Score]
    positions: dict[tuple[str, MemoryUse], list[dict[str, float]]]
    ratios: dict[str, Score]
    worth: dict[tuple[str, MemoryUse], Score]
    parameters: dict[str, int]
    about: dict[str, str]

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.scores)

    @property
    def models(self) -> tuple[str, ...]:
        """Names, in the order in which they were recorded."""
        return tuple(self.parameters)

    @property
    def baseline(self) -> str:
        """What the models are compared with."""
        return BASELINES[self.experiment]

    @property
    def with_memory(self) -> tuple[str, ...]:
        """Models whose long-term memory was also off and shuffled."""
        return tuple(name for name in self.models if (name, "shuffled") in self.scores)

    def curves(self, use: MemoryUse = "on") -> dict[str, list[dict[str, float]]]:
        """Perplexity by position of every model.

        Args:
            use: of the memory.
        """
        return {name: rows for (name, found), rows in self.positions.items() if found == use}


def read_results(folder: Path | str, experiment: ExperimentName = "language", **wanted: str | int) -> Results:
    """Read what an experiment has recorded.

    Args:
        folder: with the files, such as `figures/data`.
        experiment: `language` for models from scratch, `language_finetuned` for a pretrained GPT-2.
        **wanted: columns that must have these values, such as `size="gpu"`.

    Raises:
        ValueError: if a file has other columns, or what is chosen was not trained and evaluated alike.

    Example:
        >>> bool(read_results("there-is-no-such-folder"))
        False
    """
    require(experiment in BASELINES, f"experiment must be one of {', '.join(BASELINES)}, got {experiment!r}")
    folder, texts = Path(folder), {name: str(value) for name, value in wanted.items()}
    require(set(texts) <= set(FIELDS), f"columns are {', '.join(FIELDS)}; got {', '.join(texts)}")
    rows = _chosen(read_table(folder / f"{experiment}.csv", FIELDS, "the file of a language experiment"), texts)
    shared = {name: dict.fromkeys(row[name] for row in rows) for name in SHARED}
    mixed = {name: list(values) for name, values in shared.items() if len(values) > 1}
    require(not mixed, f"these trainings differ in {mixed}: choose one, as in read_results(folder, {_hint(mixed)})")
    texts |= {name: value for name, (value,) in shared.items()} if rows else {}
    ranges = _chosen(read_table(folder / f"{experiment}_positions.csv", POSITION_FIELDS), _only(texts, KEY))
    compared = _chosen(
        read_table(folder / f"{experiment}_compared.csv", COMPARED_FIELDS), _only(texts, COMPARED_FIELDS)
    )
    return Results(
        experiment=experiment,
        scores={key: _score(some, "ppl", "ppl_low", "ppl_high") for key, some in _by_use(rows).items()},
        positions={key: _ranges(some) for key, some in _by_use(ranges).items()},
        ratios={
            row["model"]: Score(*(float(row[name]) for name in ("ratio", "ratio_low", "ratio_high")), int(row["seeds"]))
            for row in compared
        },
        worth={
            (model, use): _score(some, "ratio_to_on", "ratio_low", "ratio_high")
            for (model, use), some in _by_use(rows).items()
            if use != "on"
        },
        parameters={row["model"]: int(row["parameters"]) for row in rows},
        about={name: row[name] for row in rows[:1] for name in ABOUT},
    )


ABOUT = (*SHARED, "documents", "corpus", "sources", "device", "torch")


def _chosen(rows: Iterable[dict[str, str]], wanted: Mapping[str, str]) -> list[dict[str, str]]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def _only(wanted: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if name in columns}


def _hint(mixed: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{name}={values[0]!r}" for name, values in mixed.items())


def _by_use(rows: Iterable[dict[str, str]]) -> dict[tuple[str, MemoryUse], list[dict[str, str]]]:
    found: dict[tuple[str, MemoryUse], list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault((row["model"], row["memory"]), []).append(row)
    return found


def _score(rows: Sequence[Mapping[str, str]], *names: str) -> Score:
    """Mean over seeds, and the interval that holds those of all of them."""
    values, lows, highs = ([float(row[name]) for row in rows] for name in names)
    return Score(sum(values) / len(values), min(lows), max(highs), len(rows))


def _ranges(rows: Sequence[Mapping[str, str]]) -> list[dict[str, float]]:
    found: dict[tuple[float, float], list[Mapping[str, str]]] = {}
    for row in rows:
        found.setdefault((float(row["start"]), float(row["end"])), []).append(row)
    ranges = []
    for (start, end), some in sorted(found.items()):
        score = _score(some, "ppl", "low", "high")
        ranges.append({"start": start, "end": end, "ppl": score.value, "low": score.low, "high": score.high})
    return ranges


def results_table(results: Results) -> str:
    """All models as a table in Markdown: perplexity with the memory on, off and shuffled, and beside the baseline.

    Args:
        results: of an experiment.

    Returns:
        The table, or one sentence if nothing is recorded.

    Example:
        >>> print(results_table(read_results("there-is-no-such-folder")))
        Not recorded yet: `infmem language experiment` does it.
    """
    if not results:
        return f"Not recorded yet: `{COMMANDS[results.experiment]}` does it."
    head = ("model", "parameters", "seeds", *(f"memory {use}" for use in USES), f"relative to {results.baseline}")
    lines = []
    for name in results.models:
        scores = [results.scores.get((name, use)) for use in USES]
        ratio = "1" if name == results.baseline else results.ratios.get(name, "–")
        cells = ["–" if score is None else str(score) for score in scores]
        lines.append((name, f"{results.parameters[name]:,}", str(scores[0].seeds), *cells, str(ratio)))
    return markdown_table(head, lines)


def results_words(results: Results) -> str:
    """What was compared, and on what, in a sentence.

    Args:
        results: of an experiment.

    Returns:
        The sentence; none if nothing is recorded.
    """
    if not results:
        return ""
    about = results.about
    corpus = f"`{about['corpus']}`" + (f" ({about['sources']})" if about["sources"] else "")
    return (
        f"{len(results.models)} models, {int(about['steps']):,} steps each ({about['optimizer']}), perplexity of a "
        f"token over {about['documents']} whole {about['split']} documents of {corpus}; mean "
        f"over seeds, in brackets from the lowest to the highest end of their 95 % intervals over documents; "
        f"{about['device']}, PyTorch {about['torch'].partition('+')[0]}."
    )


def ratio_words(results: Results) -> list[str]:
    """What each model is worth beside the baseline, in sentences that say no more than their intervals.

    Args:
        results: of an experiment.
    """
    words = []
    for name, ratio in results.ratios.items():
        found = "better" if ratio.high < 1 else "worse" if ratio.low > 1 else "not to be told apart"
        words.append(f"{name}: {ratio} times the perplexity of {results.baseline}, {found}")
    return words


def memory_words(results: Results) -> list[str]:
    """What the long-term memory is worth to each model that has one: the factor without it, and with a foreign one.

    Args:
        results: of an experiment.
    """
    return [
        f"{name}, memory {use}: {results.worth[name, use]} times the perplexity of memory on"
        for name in results.with_memory
        for use in USES[1:]
    ]
