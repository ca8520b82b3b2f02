"""Who still recalls a fact, by its age."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from infmem.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, blank, tidy
from infmem.tasks.recall import CHANCE

# Colour says how samples are drawn and where they are put, dashes in which memory: the paper's, or that of `sampled`.
STYLES: dict[str, tuple[str, str]] = {
    "paper": (BLUE, "--"),
    "sampled": (BLUE, "-"),
    "paper, sticky": (VERMILION, "--"),
    "sampled, sticky": (VERMILION, "-"),
    "paper, sticky, even": (GREEN, "--"),
    "sampled, sticky, even": (GREEN, "-"),
    "best": (BLACK, "-"),
    "compressive-transformer": (ORANGE, "-."),
    "transformer-xl": (PURPLE, "-."),
    "window": (SKY, ":"),
}


def draw_recall(
    scores: Mapping[str, Mapping[int, Sequence[float]]],
    *,
    longest_trained: int | None = None,
    title: str = "",
    figure: Figure | None = None,
) -> Figure:
    """Accuracy of the answers against the age of the fact: a line for the mean over seeds, a band between them.

    Args:
        scores: for each who answers, for each age in segments, the accuracy of every seed.
        longest_trained: the largest age that training has asked for, to mark it.
        title: above the picture.
        figure: drawn into again; None makes a new one.

    Example:
        >>> len(draw_recall({"window": {0: [1.0, 1.0], 1: [0.1, 0.2]}}).axes)
        1
    """
    figure = blank(figure, width=8.5, height=4)
    axes = figure.add_subplot()
    for name, by_age in scores.items():
        ages = sorted(by_age)
        color, dash = STYLES.get(name, (GREY, "-"))
        means = [sum(by_age[age]) / len(by_age[age]) for age in ages]
        axes.plot(ages, means, color=color, linestyle=dash, linewidth=1.8, label=name)
        low, high = ([end(by_age[age]) for age in ages] for end in (min, max))
        axes.fill_between(ages, low, high, color=color, alpha=0.15, linewidth=0)
    axes.axhline(CHANCE, color=GREY, linestyle=":", linewidth=1, label="chance, among the values")
    if longest_trained is not None:
        axes.axvline(longest_trained, color=GREY, linewidth=0.8, label="oldest fact in training", zorder=0)
    axes.set_xscale("symlog", base=2, linthresh=1)
    oldest = max(max(by_age) for by_age in scores.values())
    ticks = [0, *(2**power for power in range(oldest.bit_length()) if 2**power <= oldest)]
    axes.set_xticks(ticks, [str(age) for age in ticks])
    axes.minorticks_off()
    axes.set(xlim=(0, oldest), ylim=(0, 1.03), xlabel="age of the fact, in segments", ylabel="accuracy", title=title)
    tidy(axes, legend=True)
    return figure
