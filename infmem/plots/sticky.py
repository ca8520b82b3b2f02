"""Sticky memories: where the attention lay, where the samples were drawn, and what the memory makes of them."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from infmem.plots.contraction import DASHES, MARKERS
from infmem.plots.style import BLACK, BLUE, CYCLE, GREEN, GREY, VERMILION, blank, tidy

OLD_AXIS = "position t on the old memory: 0 oldest, 1 newest"


def draw_histogram(
    probabilities: Float[Tensor, " bin"],
    locations: Mapping[str, Float[Tensor, " sample"]],
    figure: Figure | None = None,
) -> Figure:
    """The attention histogram, and under it the locations that each way of sampling draws from it.

    Args:
        probabilities: mass of the attention in each of the equal bins of [0, 1].
        locations: sampled locations, by the name of the method.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_histogram(torch.tensor([0.25, 0.75]), {"iid": torch.tensor([0.1, 0.6, 0.9])})
        >>> len(figure.axes[0].patches), figure.axes[1].get_yticklabels()[0].get_text()
        (2, 'iid')
    """
    figure = blank(figure, height=2.4 + 0.25 * len(locations))
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 0.4 + 0.4 * len(locations)))
    _histogram(above, probabilities)
    _rugs(below, locations)
    below.set_xlabel(OLD_AXIS)
    return figure


def _histogram(axes: Axes, probabilities: Tensor) -> None:
    num_bins = len(probabilities)
    left = torch.arange(num_bins) / num_bins
    axes.bar(
        left.numpy(), probabilities.numpy(), width=1 / num_bins, align="edge", color=BLUE, edgecolor="white", lw=0.3
    )
    axes.axhline(1 / num_bins, color=GREY, linewidth=0.8, linestyle="--", label="even")
    axes.set(xlim=(0, 1), ylabel="attention\nper bin")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    tidy(axes, legend=True)


def _rugs(axes: Axes, locations: Mapping[str, Tensor]) -> None:
    for row, places in enumerate(locations.values()):
        axes.plot(places.numpy(), torch.full_like(places, float(row)), "|", color=BLACK, markersize=9, alpha=0.7)
    axes.set(xlim=(0, 1), ylim=(len(locations) - 0.4, -0.6), yticks=range(len(locations)), yticklabels=list(locations))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    tidy(axes)


def draw_sticky_update(
    probabilities: Float[Tensor, " bin"],
    locations: Float[Tensor, " sample"],
    t: Float[Tensor, " query_pos"],
    before: Float[Tensor, " query_pos"],
    after: Float[Tensor, " query_pos"],
    after_even: Float[Tensor, " query_pos"],
    tau: int | float,
    figure: Figure | None = None,
) -> Figure:
    """One sticky update: the attention, the samples, the signal before and the signal after.

    Args:
        probabilities: the attention histogram.
        locations: where the old signal was sampled.
        t: an even grid over [0, 1].
        before: the old signal there.
        after: the new signal there.
        after_even: the new signal there, had the old one been sampled evenly.
        tau: share of the past.
        figure: drawn into again; None makes a new one.

    Example:
        >>> t = torch.tensor([0.0, 0.5, 1.0])
        >>> figure = draw_sticky_update(torch.tensor([0.5, 0.5]), t, t, t, t, t, tau=0.75)
        >>> figure.axes[-1].get_ylabel()
        'after'
    """
    figure = blank(figure, height=5)
    histogram, rug, old, new = figure.subplots(4, sharex=True, height_ratios=(1.1, 0.35, 1.6, 1.6))
    _histogram(histogram, probabilities)
    _rugs(rug, {"samples": locations})
    limit = 1.25 * max(float(before.abs().max()), 1e-9)
    old.plot(t.numpy(), before.numpy(), color=VERMILION, linewidth=1.8, label="old signal")
    new.plot(t.numpy(), after_even.numpy(), color=GREY, linestyle="--", linewidth=1.2, label="even samples")
    new.plot(t.numpy(), after.numpy(), color=BLUE, linewidth=1.8, label="these samples")
    new.axvspan(tau, 1, color="0.93", label="room for the new")
    for axes, name in [(old, "before"), (new, "after")]:
        axes.set(xlim=(0, 1), ylim=(-limit, limit), ylabel=name)
        tidy(axes, legend=True)
    new.set_xlabel("position t on the memory (above: before the update, below: after it)")
    return figure


def draw_sampling_errors(
    errors: Mapping[str, Float[Tensor, "method seed"]], methods: Sequence[str], figure: Figure | None = None
) -> Figure:
    """Error of the old signal after an update, by the way of sampling: every seed, and their mean with its interval.

    Args:
        errors: relative errors, a row for each method and a column for each seed, by where the samples are put.
        methods: names of the rows.
        figure: drawn into again; None makes a new one.

    The bar is the mean with twice its standard error on both sides.

    Example:
        >>> figure = draw_sampling_errors({"address": torch.rand(2, 5)}, ["even", "iid"])
        >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        ['even', 'iid']
    """
    figure = blank(figure, height=1.2 + 0.4 * len(methods))
    panels = figure.subplots(1, len(errors), sharey=True, sharex=True, squeeze=False)[0]
    rows = torch.arange(len(methods))
    for axes, (name, values) in zip(panels, errors.items(), strict=True):
        means = values.mean(dim=1)
        margins = 2 * values.std(dim=1) / values.shape[1] ** 0.5
        for row, shares in enumerate(values):
            axes.plot(shares.numpy(), torch.full_like(shares, float(row)), ".", color=GREY, alpha=0.5, markersize=5)
        axes.errorbar(
            means.numpy(), rows.numpy(), xerr=margins.numpy(), fmt="D", color=VERMILION, capsize=4, markersize=5
        )
        axes.set(title=name, xlabel="error / energy of the signal", yticks=rows.tolist(), yticklabels=list(methods))
        axes.set(xlim=(0, None), ylim=(len(methods) - 0.5, -0.5))
        tidy(axes)
    return figure


def draw_kept_events(
    heights: Mapping[str, Float[Tensor, "update event"]], events: Sequence[str], figure: Figure | None = None
) -> Figure:
    """Height of events at their place by the number of updates: a panel for each, a line for each way of sampling.

    Args:
        heights: a row for each update, a column for each event, by the name of the way.
        events: names of the columns.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_kept_events({"even": torch.ones(3, 2)}, ["attended", "not attended"])
        >>> [axes.get_title() for axes in figure.axes]
        ['attended', 'not attended']
    """
    figure = blank(figure, height=2.6)
    panels = figure.subplots(1, len(events), sharey=True, squeeze=False)[0]
    colors = (GREY, VERMILION, BLUE, GREEN, *CYCLE)
    for axes, title, column in zip(panels, events, range(len(events)), strict=True):
        for index, (name, values) in enumerate(heights.items()):
            style = {"color": colors[index], "linestyle": DASHES[index % 4], "marker": MARKERS[index % 5]}
            axes.plot(range(len(values)), values[:, column].numpy(), markersize=4, label=name, **style)
        axes.set(title=title, xlabel="updates", xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    panels[0].set(ylabel="height at its place", ylim=(-0.1, 1.15))
    tidy(panels[-1], legend=True)
    return figure
