import csv
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "figures" / "data"
CHANGES = {
    "schedule": ["tau .5", "tau .75", "tau .9"],
    "contraction": ["512 samples", "128 samples"],
    "widths": ["half the width", "twice the width", "two widths", "32 functions", "64 functions", "256 functions"],
    "stickiness": ["128 samples", "sticky, stratified, even", "sticky, stratified", "sticky, iid"],
    "beginning": ["narrow at first", "very narrow at first", "silent at first"],
    "other": ["zero padding", "whole line", "end points", "ridge .01", "ridge 1", "gate", "no bias",
              "the layer's query", "no regulariser", "strong regulariser"],
}  # fmt: skip
COLUMNS = {"the mean of everything": "whole_mean", "the mean of a segment": "segment_mean", "a single token": "token"}


def rows_of(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="") as file:
        return list(csv.DictReader(file))


def ablations(values: dict) -> list[str]:
    scores = {}
    for row in rows_of("ablation.csv"):
        scores.setdefault(row["model"], []).append((float(row["accuracy"]), float(row["ci95"])))

    def interval(name: str) -> tuple[float, float, float]:
        mean = sum(accuracy for accuracy, _ in scores[name]) / len(scores[name])
        bar = max(max(mean - (a - ci), a + ci - mean) for a, ci in scores[name])
        return mean - bar, mean, mean + bar

    low, best, high = interval("best")
    pieces = [f"best scores {best:.3f} ± {high - best:.3f} over {len(scores['best'])} seeds. "]
    for name in CHANGES[values["group"]]:
        lower, mean, upper = interval(name)
        verdict = f"worse by {best - mean:.3f}" if upper < low else f"better by {mean - best:.3f}"
        verdict = "not told from best" if lower <= high and low <= upper else verdict
        pieces.append(f"{name} scores {mean:.3f} ± {mean - lower:.3f}, {verdict}")
    errors = {
        row["change"]: float(row[COLUMNS[values["measure"]]])
        for row in rows_of("memory_errors.csv")
        if int(row["age"]) == values["age"]
    }
    shown = ", ".join(f"{name} {errors[name]:.2g}" for name in ["best", *CHANGES[values["group"]]])
    return [*pieces, f"{values['measure']} at an age of {values['age']} updates is off by: {shown}."]


EXPECTED = {"ablations": ablations}
