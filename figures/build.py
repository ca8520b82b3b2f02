"""Draw the figures and write tables of the README from the numbers in figures/data: `make figures`."""

import csv
import json
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from infmem.benchmark import crossover
from infmem.benchmark.read import PASSES, ROUNDED
from infmem.checkpoint import write_text
from infmem.demo import MODELS
from infmem.experiment import (
    LONGER,
    RECALL_LENGTH,
    RECALL_LONGER,
    RECALLS,
    SCALES,
    SWEEP_LENGTH,
    VARIANTS,
    ablation_scores,
    age_scores,
    has_usual_budget,
    longer_scores,
    mean_scores,
    read_lines,
    read_rows,
)
from infmem.language.results import (
    ExperimentName,
    Results,
    memory_words,
    ratio_words,
    read_results,
    results_table,
    results_words,
)
from infmem.plots import (
    draw_accuracy_by_length,
    draw_crossover,
    draw_learning_curves,
    draw_perplexity_by_position,
    draw_recall,
    draw_scores,
)
from infmem.presets import PRESETS
from infmem.tables import markdown_table
from infmem.tasks.sorting import ReferenceLines

HERE = Path(__file__).resolve().parent
DOTS_PER_INCH = 150


def recorded(path: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics that were kept."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def learning_curves() -> Figure:
    """What `make run` draws, from the run that is recorded in figures/data/demo."""
    demo = HERE / "data" / "demo"
    lines = json.loads((demo / "summary.json").read_text(encoding="utf-8"))["lines"]
    return draw_learning_curves({model: recorded(demo / f"{model}.csv") for model in MODELS}, ReferenceLines(**lines))


def sorting_table(preset: str) -> str:
    """The same as a table in Markdown, with the number of seeds; a dash where a cell is not recorded yet."""
    return scores_table(mean_scores(HERE / "data" / "sorting.csv", preset), long_lines() if preset == "full" else ())


def scores_table(rows: Sequence[dict], more: Iterable[Sequence[str]] = ()) -> str:
    """Accuracies by model and length as a table in Markdown, with further lines below."""
    scores = {(row["name"], row["length"]): row for row in rows}
    lengths = sorted({length for _, length in scores})
    lines = []
    for name in sorted({name for name, _ in scores}, key=list(VARIANTS).index):
        cells = [scores.get((name, length)) for length in lengths]
        lines.append((name, *(f"{cell['accuracy']:.3f} ({cell['seeds']})" if cell else "–" for cell in cells)))
    return markdown_table(("", *(f"{length:,} symbols" for length in lengths)), [*lines, *more])


def long_lines() -> list[tuple[str, ...]]:
    """Cells of the full size that were trained for longer than the others: one line of accuracies for each model."""
    rows = [row for row in read_rows(HERE / "data" / "sorting.csv") if row["preset"] == "full"]
    long = [row for row in rows if row["optimizer"] == SCALES["full"].optimizer and not has_usual_budget(row)]
    lines = []
    for name in dict.fromkeys(row["model"] for row in long):
        cells = sorted((row for row in long if row["model"] == name), key=lambda row: int(row["length"]))
        words = " + ".join(f"{int(row['steps']):,}" for row in cells)
        lines.append((f"{name}, {words} steps", *(f"{float(row['accuracy']):.3f} (1)" for row in cells)))
    return lines


def longer_table(preset: str) -> str:
    """Models at lengths that they were not trained at."""
    return scores_table(longer_scores(HERE / "data" / "longer.csv", preset))


def ablation_table() -> str:
    """What each change of the memory is worth: accuracy, and its difference to that without a change."""
    scores = ablation_scores(HERE / "data" / "ablation.csv")
    (usual,) = (row["accuracy"] for row in scores if row["name"] == "best")
    lines = [
        (row["name"], f"{row['accuracy']:.3f} ± {row['ci95']:.3f} ({row['seeds']})", f"{row['accuracy'] - usual:+.3f}")
        for row in sorted(scores, key=lambda row: -row["accuracy"])
    ]
    return markdown_table(("changed", "accuracy", "difference"), lines)


def depth_table() -> str:
    """The Transformer-XL of the small preset at 1,000 symbols, with two, three and four layers."""
    with (HERE / "data" / "sorting_depth.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {
        "the trained model": "accuracy",
        "counting all that can reach the answer": "receptive_field",
        "even attention": "even_attention",
    }
    lines = [(words, *(f"{float(row[column]):.3f}" for row in rows)) for words, column in columns.items()]
    return markdown_table(("", *(f"{row['num_layers']} layers" for row in rows)), lines)


def sorting(preset: str, title: str) -> Figure:
    """Accuracy against length, from what `infmem experiment sorting` has recorded."""
    lines = read_lines(HERE / "data" / "sorting_lines.csv", preset)
    return draw_accuracy_by_length(mean_scores(HERE / "data" / "sorting.csv", preset), lines, title)


def longer() -> Figure:
    """Accuracy at lengths that were not trained, at small scale."""
    scores = longer_scores(HERE / "data" / "longer.csv", "small")
    return draw_accuracy_by_length(scores, {}, "sorting, trained at one length", LONGER["small"][0])


def ablation() -> Figure:
    """What each change of the memory is worth."""
    lines = read_lines(HERE / "data" / "sorting_lines.csv", "small")[SWEEP_LENGTH]
    return draw_scores(ablation_scores(HERE / "data" / "ablation.csv"), lines)


def oldest_fact_in_training() -> int:
    """The largest age, in segments, of a fact that the last token of a training's sequence can ask for."""
    return (RECALL_LENGTH - 1) // PRESETS["small"].segment_length


def recall_scores() -> dict[str, dict[int, list[float]]]:
    """Accuracy by age of the fact, in sequences longer than those of the training: of each, and of every seed."""
    scores = age_scores(HERE / "data" / "recall.csv", RECALL_LONGER)
    return {name: scores[name] for name in RECALLS if name in scores}


def recall() -> Figure:
    """Who still recalls a fact, in sequences longer than those of the training."""
    words = f"trained on {RECALL_LENGTH:,} tokens, asked in {RECALL_LONGER * RECALL_LENGTH:,}"
    return draw_recall(recall_scores(), longest_trained=oldest_fact_in_training(), title=words)


def recall_table() -> str:
    """The same as a table: the mean over seeds, at some ages."""
    ages = (1, 8, oldest_fact_in_training(), 32, 64, 120)
    lines = []
    for name, by_age in recall_scores().items():
        cells = [by_age[age] for age in ages]
        lines.append((f"{name} ({len(cells[0])})", *(f"{sum(cell) / len(cell):.2f}" for cell in cells)))
    return markdown_table(
        ("accuracy at an age of", *(f"{age} segments" if age > 1 else "1 segment" for age in ages)), lines
    )


def timed(what: str) -> dict:
    """What `infmem bench` has recorded: device, settings and rows."""
    return json.loads((HERE / "data" / f"bench_{what}.json").read_text(encoding="utf-8"))


def place(recorded: dict) -> str:
    """The device of a recording, in words."""
    count = recorded["threads"]
    threads = f" ({count} thread{'s' * (count > 1)})" if on_cpu(recorded) else ""
    return f"{recorded['device']}{threads}, PyTorch {recorded['torch'].partition('+')[0]}"


def noise(recorded: dict) -> str:
    """What to beware of in times that other work on the machine may have disturbed."""
    return ". The machine had other work to do, so times that should be equal differ" if on_cpu(recorded) else ""


def on_cpu(recorded: dict) -> bool:
    """Whether a recording was made on a CPU."""
    return recorded["device"] == "the CPU"


def crossover_figure() -> Figure:
    """Full attention over ever more keys beside a memory of fixed size."""
    recorded = timed("attention")
    return draw_crossover(recorded["rows"], place(recorded))


def read_table() -> str:
    """The read in all its forms: times, the memory that it needs, and what no form could be faster than."""
    rows = {(row["begins_with"], row["form"], row["pass"]): row for row in timed("read")["rows"]}
    lines = []
    for begins, form in dict.fromkeys(key[:2] for key in rows):
        forward, both = (rows[begins, form, name] for name in PASSES)
        times = [f"{row['milliseconds']:.3f} ({row['floor_milliseconds']:.3f})" for row in (forward, both)]
        lines.append((f"from {begins}: {form}", *times, f"{both['peak_mib']:,.0f}"))
    return markdown_table(("a read", "forward, ms (floor)", "and backward, ms (floor)", "most memory, MiB"), lines)


def attention_table() -> str:
    """A step of full attention for some numbers of keys, and those of the memory."""
    lines = []
    recorded = timed("attention")["rows"]
    for what, key_pos, precision in dict.fromkeys((row["what"], row["key_pos"], row["precision"]) for row in recorded):
        if "step" in what and (key_pos is None or key_pos.bit_length() % 2):
            same = [
                row for row in recorded if (row["what"], row["key_pos"], row["precision"]) == (what, key_pos, precision)
            ]
            times = {row["pass"]: f"{row['milliseconds']:.3f}" for row in same}
            seen = "any number of tokens" if key_pos is None else f"{key_pos:,} keys"
            lines.append((f"{what}, {seen}, {precision}", *(times[name] for name in PASSES)))
    return markdown_table(("a segment's step", "forward, ms", "and backward, ms"), lines)


def stream_table() -> str:
    """Milliseconds a segment and bytes of state after ever more tokens, by model."""
    rows = timed("stream")["rows"]
    counts = sorted({row["tokens_seen"] for row in rows})
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = {row["tokens_seen"]: row for row in rows if row["model"] == model}
        times = [
            "does not fit" if cells[n]["milliseconds"] is None else f"{cells[n]['milliseconds']:.2f}" for n in counts
        ]
        first, last = (cells[n]["state_bytes"] / 1e6 for n in (counts[0], counts[-1]))
        lines.append((model, *times, f"{first:,.1f}" if first == last else f"{first:,.1f} to {last:,.0f}"))
    return markdown_table(("", *(f"{count:,}" for count in counts), "state, MB"), lines)


def meeting(memory: str, attention: str) -> str:
    """From how many keys on the memory is the faster one, forward and with gradients, in words."""
    rows, words = timed("attention")["rows"], []
    fewest = min(row["key_pos"] for row in rows if row["key_pos"] is not None)
    for name in PASSES:
        keys = crossover(rows, memory, attention, name)
        found = "at no measured number of keys" if keys is None else f"from {keys:,} keys on"
        words.append(f"at {fewest:,} keys already" if keys == fewest else found)
    return f"forward {words[0]}, with gradients {words[1]}"


def rounded_words() -> str:
    """What the kernel's read costs with rounded products, beside full attention over the fewest keys, in words."""
    attention = [row for row in timed("attention")["rows"] if row["what"] == "attention"]
    fewest = min(row["key_pos"] for row in attention)
    words = []
    for name in PASSES:
        (read,) = (row for row in timed("read")["rows"] if (row["form"], row["pass"]) == (ROUNDED, name))
        (full,) = (row for row in attention if (row["key_pos"], row["pass"]) == (fewest, name))
        words.append(f"{read['milliseconds']:.3f} ms {name} ({full['milliseconds']:.3f})")
    return (
        "By default the kernel's products of float32 numbers are exact; with PyTorch's own switch, "
        f'`torch.set_float32_matmul_precision("high")`, they are rounded to TF32, and the read takes {words[0]} and '
        f"{words[1]}; in brackets, full attention over {fewest:,} keys in {attention[0]['precision']}."
    )


def training_table() -> str:
    """Steps of training, plain and fast, by preset and model."""
    rows = {(row["preset"], row["model"], row["path"]): row for row in timed("train")["rows"]}
    lines = []
    for preset, model in dict.fromkeys(key[:2] for key in rows):
        plain, fast = rows[preset, model, "eager"], rows[preset, model, "fast"]
        speed = f"{fast['tokens_per_second'] / 1e6:.1f} million"
        lines.append((f"{preset}, {model}", f"{plain['milliseconds']:.2f}", f"**{fast['milliseconds']:.2f}**", speed))
    return markdown_table(("", "plain", "fast", "symbols per second, fast"), lines)


def cpu_words() -> str:
    """How much faster than the textbook's the other forms are on a CPU, in words."""
    recorded = timed("read_cpu")
    times = {
        (row["form"], row["pass"]): row["milliseconds"] for row in recorded["rows"] if row["begins_with"] == "queries"
    }
    forward, both = (
        [times["textbook", name] / times[form, name] for form in ("collapsed", "collapsed, compiled")]
        for name in PASSES
    )
    return (
        f"On {place(recorded)}, {recorded['sizes']['query_pos']} queries: collapsed {forward[0]:.1f} times as fast as "
        f"the textbook's way forward and {both[0]:.1f} times with gradients; compiled too, {forward[1]:.1f} and "
        f"{both[1]:.1f} times (`figures/data/bench_read_cpu.json`; a shared machine, so these vary)."
    )


def speed_text() -> str:
    """What the README says of speed, from what was recorded."""
    read, attention, stream = (timed(what) for what in ("read", "attention", "stream"))
    sizes = "batch {batch}, {query_pos:,} queries, {num_heads} heads of {d_head}, {num_basis} basis functions"
    first = stream["rows"][0]
    streamed = f"really read up to {stream['streamed']:,} tokens, beyond them the state is set as if they had been"
    parts = (
        f"**A read** on {place(read)}: {sizes.format(**read['sizes'])}.",
        read_table(),
        *([rounded_words()] if not on_cpu(read) else []),
        cpu_words(),
        f"**A memory beside full attention** on {place(attention)}: {sizes.format(**attention['sizes'])}. The read of "
        f"the memory alone is faster than full attention alone: {meeting('memory read', 'attention')}. Its whole step, "
        "with all projections and the writing, is faster than that of full attention with a cache: "
        f"{meeting('memory step', 'attention step')}.",
        attention_table(),
        f"**A stream** on {place(stream)}: milliseconds for one more segment of {first['segment_length']:,} tokens "
        f"after so many, whole models of the preset `{stream['preset']}`, batch {first['batch']}; "
        f"{streamed}{noise(stream)}.",
        stream_table(),
    )
    return "\n\n".join(part if part.startswith("|") else wrap(part) for part in parts)


def soak_text() -> str:
    """What the README says of endless streams, from what was recorded."""
    parts = [soak_words(path) for path in sorted((HERE / "data").glob("soak_*.json"))]
    return "\n\n".join(map(wrap, parts or ["Not recorded yet: `make soak`."]))


def soak_words(path: Path) -> str:
    """What a soak has found, in words: the worst of all rows."""
    recorded = json.loads(path.read_text(encoding="utf-8"))
    wrong = [f"{row['name']} in {row['precision']}: {words}" for row in recorded["rows"] for words in row["problems"]]
    holding = [row for row in recorded["rows"] if not row["problems"]]
    memories, models = ([row for row in holding if row["what"] == what] for what in ("memory", "model"))
    names = {what: len({row["name"] for row in rows}) for what, rows in (("memory", memories), ("model", models))}
    longer = max((last / first for first, last in (row["relative"] for row in models) if first), default=1.0)
    held = [row[name] for row in models for name in ("process_mib", "gpu_mib")]
    more = max((last - first for first, last in held if first is not None), default=0.0)
    drift = max(row["drift"] for row in memories)
    found = (
        f"what a memory reads differs by at most {100 * drift:.2f} % between update 500 and the end; a segment takes "
        f"at most {longer:.2f} times as long as at first, both times held against a copy that begins anew, with as "
        f"many bytes of state; the process has at most {more:.1f} MiB more"
    )
    verdict = f"**Not all holds ({'; '.join(wrong)}).** Of the rest, {found}" if wrong else f"All holds: {found}"
    read = min((row["tokens"] for row in models), default=0)
    return (
        f"**A soak** on {place(recorded)}, in float32 and bfloat16: at least {read:,} tokens through each of "
        f"{names['model']} models of the preset `{recorded['preset']}`, in segments of {recorded['segment_length']:,}, "
        f"and {recorded['updates']:,} updates of each of {names['memory']} memories with a stationary signal. "
        f"{verdict} (`make soak`, `figures/data/{path.name}`)."
    )


def language(experiment: ExperimentName) -> Results:
    """What is recorded of an experiment on language."""
    return read_results(HERE / "data", experiment)


def positions(experiment: ExperimentName, title: str) -> Figure:
    """Perplexity by position of every model of an experiment on language."""
    results = language(experiment)
    return draw_perplexity_by_position(results.curves(), results.baseline, title)


def language_text() -> str:
    """What the README says of language, from what was recorded."""
    parts = []
    for experiment, (name, title) in LANGUAGE.items():
        results = language(experiment)
        table = results_table(results)
        if not results:
            parts.append(f"{title[0].upper()}{title[1:]}. {table}")
            continue
        found = [*ratio_words(results), *memory_words(results)]
        parts += [
            f"![Perplexity by position in the document, {title}: {'; '.join(ratio_words(results))}.](figures/{name})",
            f"{title[0].upper()}{title[1:]}: {results_words(results)}",
            table,
            "\n".join(f"- {words}" for words in found),
        ]
    return "\n\n".join(part if part.startswith(("|", "!", "-")) else wrap(part) for part in parts if part)


wrap = partial(textwrap.fill, width=128, break_long_words=False, break_on_hyphens=False)

# The figure of each experiment on language, drawn once something is recorded, and its title.
LANGUAGE: dict[ExperimentName, tuple[str, str]] = {
    "language": ("language.png", "models from scratch"),
    "language_finetuned": ("language_finetuned.png", "a GPT-2, fine-tuned with and without a memory"),
}

FIGURES = {
    "learning_curves.png": learning_curves,
    "sorting.png": partial(sorting, "full", "sorting, at the paper's sizes"),
    "sorting_small.png": partial(sorting, "small", "sorting, an eighth of the paper's sizes"),
    "longer.png": longer,
    "ablation.png": ablation,
    "recall.png": recall,
    "crossover.png": crossover_figure,
} | {
    name: partial(positions, experiment, title)
    for experiment, (name, title) in LANGUAGE.items()
    if language(experiment)
}
# What stands between these two lines of the README is written anew with the figures.
BEGIN, END = "<!-- from figures/data, by `make figures` -->", "<!-- until here -->"
BEGIN_LANGUAGE = "<!-- language, from figures/data, by `make figures` -->"
BEGIN_SOAK = "<!-- soak, from figures/data, by `make figures` -->"


def with_speed(readme: str) -> str:
    """The README with the recorded speed."""
    return with_text(readme, BEGIN, speed_text())


def with_language(readme: str) -> str:
    """The README with the recorded language models."""
    return with_text(readme, BEGIN_LANGUAGE, language_text())


def with_soak(readme: str) -> str:
    """The README with what a soak has found."""
    return with_text(readme, BEGIN_SOAK, soak_text())


def with_text(readme: str, begin: str, text: str) -> str:
    """The README with a text between one of the lines that begin what is written anew, and the next that ends it."""
    before, found, rest = readme.partition(begin)
    _, found_end, after = rest.partition(END)
    if not (found and found_end):
        raise ValueError(f"README.md must have the lines {begin!r} and {END!r}: what is recorded stands between them")
    return f"{before}{begin}\n\n{text}\n\n{END}{after}"


def main() -> None:
    """Write every figure, and in the README what is said of speed, of language models and of a soak."""
    for name, draw in FIGURES.items():
        draw().savefig(HERE / name, dpi=DOTS_PER_INCH)
        print(f"figures/{name}")
    readme = HERE.parent / "README.md"
    write_text(readme, with_soak(with_language(with_speed(readme.read_text(encoding="utf-8")))))
    print("README.md")


if __name__ == "__main__":
    main()
