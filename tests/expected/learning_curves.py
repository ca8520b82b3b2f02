import csv
import json
from pathlib import Path

import numpy as np

import infmem

FOLDER = Path(infmem.__file__).parent / "trained"
MODELS = {
    "three models": ["infinite-former", "transformer-xl", "window"],
    "how to forget": ["infinite-former", "fixed-tau"],
    "how much to keep": ["infinite-former", "few-basis", "sampled", "few-samples"],
    "what is written": ["infinite-former", "gate", "padding"],
    "sticky memories": ["infinite-former", "sampled", "sticky", "sticky-even", "sticky-iid"],
}
# The lines that `infmem demo` recorded, rounded; the sentence has them to three digits.
LINES = {"counting everything": 0.866, "counting what a Transformer-XL can see": 0.392,
         "counting the last segment": 0.232, "chance": 0.180}  # fmt: skip


def learning_curves(values: dict) -> list[str]:
    pieces = []
    for name in MODELS[values["group"]]:
        card = json.loads((FOLDER / f"{name}.json").read_text())
        beaten = [f"above {line} ({x:.3f})" for line, x in LINES.items() if card["accuracy"] - card["ci95"] > x]
        pieces.append(f"{name} scores {card['accuracy']:.3f} ± {card['ci95']:.3f} on fresh sequences, {beaten[0]}; ")
        with (FOLDER / f"{name}.csv").open() as file:
            rows = [(int(float(row["step"])), float(row["accuracy"])) for row in csv.DictReader(file)]
        width = values["smoothing"] // 10
        means = {rows[i][0]: np.mean([a for _, a in rows[i - width + 1 : i + 1]]) for i in range(width - 1, len(rows))}
        passed = [step for step, mean in means.items() if mean > 0.3918]
        pieces.append(f"at step {passed[0]}." if passed else f"its curve ends at {round(means[rows[-1][0]], 9):.3f}.")
    return pieces


EXPECTED = {"learning_curves": learning_curves}
