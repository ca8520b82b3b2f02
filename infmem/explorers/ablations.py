"""What each choice of a memory is worth: recorded scores, beside how wrong the memory is before anything is trained."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from infmem.experiment.results import ablation_scores, read_errors
from infmem.explorers.base import Explorer, choice, int_slider
from infmem.plots.ablation import draw_ablation
from infmem.validation import require

RECORDED = Path(__file__).parents[2] / "figures" / "data"
USUAL = "best"

CHANGES = {
    "schedule": ("tau .5", "tau .75", "tau .9"),
    "contraction": ("512 samples", "128 samples"),
    "widths": ("half the width", "twice the width", "two widths", "32 functions", "64 functions", "256 functions"),
    "stickiness": ("128 samples", "sticky, stratified, even", "sticky, stratified", "sticky, iid"),
    "beginning": ("narrow at first", "very narrow at first", "silent at first"),
    "other": (
        *("zero padding", "whole line", "end points", "ridge .01", "ridge 1"),
        *("gate", "no bias", "the layer's query", "no regulariser", "strong regulariser"),
    ),
}
MEASURES = {
    "the mean of everything": "whole_mean",
    "the mean of a segment": "segment_mean",
    "a single token": "token",
}


def ablations(group: str = "schedule", folder: Path | str = RECORDED) -> Explorer:
    """The memory `best` with one choice changed: accuracy with intervals, and errors of the untrained memory by age.

    Args:
        group: of changes, that is shown first.
        folder: where `ablation.csv` and `memory_errors.csv` are: `figures/data` of the repository.
    """
    require(group in CHANGES, f"group must be one of {', '.join(CHANGES)}, got {group!r}")
    folder = Path(folder)
    recorded = (
        {row["name"]: row for row in ablation_scores(folder / "ablation.csv")},
        read_errors(folder / "memory_errors.csv"),
    )

    def show(figure: Figure, group: str, measure: str, age: int) -> str:
        scores, errors = recorded
        names = (USUAL, *CHANGES[group])
        missing = [name for name in names if name not in scores or name not in errors]
        require(
            not missing,
            f"{', '.join(missing)} should be recorded in {folder}, and is not: take figures/data from the repository, "
            "or `infmem experiment ablation` measures it anew",
        )
        off = {name: getattr(errors[name], MEASURES[measure]).tolist() for name in names}
        draw_ablation([scores[name] for name in names], off, marked=age, what=f"error of {measure}", figure=figure)
        usual = scores[USUAL]
        changed = "; ".join(_compared(scores[name], usual) for name in names[1:])
        at_age = ", ".join(f"{name} {off[name][age]:.2g}" for name in names)
        return (
            f"{_score(usual)} over {usual['seeds']} seeds. {changed}. Before training, {measure} at an age of {age} "
            f"updates is off by: {at_age}."
        )

    controls = {
        "group": choice("what is changed", group, list(CHANGES)),
        "measure": choice("what is read back", next(iter(MEASURES)), list(MEASURES)),
        "age": int_slider("age in updates", 8, 0, 16),
    }
    return Explorer("What each choice is worth", show, controls, size=(8.5, 3.2))


def _score(row: Mapping) -> str:
    return f"{row['name']} scores {row['accuracy']:.3f} ± {row['ci95']:.3f}"


def _compared(row: Mapping, usual: Mapping) -> str:
    """A score, and whether its interval and the usual one's are apart."""
    difference = row["accuracy"] - usual["accuracy"]
    if abs(difference) <= row["ci95"] + usual["ci95"]:
        return f"{_score(row)}, not told from {USUAL}"
    return f"{_score(row)}, {'better' if difference > 0 else 'worse'} by {abs(difference):.3f}"
