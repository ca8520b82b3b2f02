"""Making room: which segment sits where after each update, what is read back of it, and how fast it goes."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from infmem.plots.style import BLACK, BLUE, COLORMAP, CYCLE, GREEN, GREY, VERMILION, blank, tidy

MEMORY_AXIS = "position t on the memory: 0 oldest, 1 newest"
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")


def draw_room(segments: Float[Tensor, "update query_pos"], figure: Figure | None = None) -> Figure:
    """Which segment sits where on the memory, one row for each update.

    Args:
        segments: number of the segment at each position of an even grid over [0, 1], 1 for the oldest; a row per
            update, the first fit above.
        figure: drawn into again; None makes a new one.

    Example:
        >>> segments = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 2.0, 2.0]])
        >>> draw_room(segments).axes[0].get_ylabel()
        'updates'
    """
    figure = blank(figure, height=2.8)
    axes = figure.subplots()
    _room(figure, axes, segments)
    return figure


def _room(figure: Figure, axes: Axes, segments: Tensor) -> None:
    rows = len(segments)
    image = axes.imshow(
        segments.numpy(),
        aspect="auto",
        cmap=COLORMAP,
        interpolation="nearest",
        extent=(0, 1, rows - 0.5, -0.5),
        vmin=1,
        vmax=max(float(segments.max()), 2.0),
    )
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set(xlabel=MEMORY_AXIS, ylabel="updates")
    bar = figure.colorbar(image, ax=axes, label="segment")
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def draw_written(
    tokens: Float[Tensor, " pos"],
    t: Float[Tensor, " query_pos"],
    signal: Float[Tensor, " query_pos"],
    segments: Float[Tensor, "update query_pos"],
    room: int | float,
    figure: Figure | None = None,
) -> Figure:
    """All tokens that were written, the memory's signal after the last update, and which segment sits where.

    Args:
        tokens: one component of everything that was written, segment after segment of equal length.
        t: an even grid over [0, 1].
        signal: what the memory says there now.
        segments: number of the segment at each position of that grid, a row for each update.
        room: share of [0, 1] that the first segment has now; it is shaded.
        figure: drawn into again; None makes a new one.

    Example:
        >>> t = torch.tensor([0.25, 0.5, 0.75, 1.0])
        >>> segments = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 2.0, 2.0]])
        >>> len(draw_written(torch.ones(6), t, torch.ones(4), segments, room=0.5).axes)
        4
    """
    figure = blank(figure, height=5)
    above, middle, below = figure.subplots(3, height_ratios=(2, 2, 2))
    num_segments = len(segments)
    length = len(tokens) // num_segments
    limit = 1.15 * max(float(tokens.abs().max()), 1e-9)
    for segment in range(num_segments):
        color = colormaps[COLORMAP](0.85 * segment / max(num_segments - 1, 1))  # its lightest is lost on white
        numbers = torch.arange(segment * length, (segment + 1) * length)
        above.plot((numbers + 1).numpy(), tokens[numbers].numpy(), color=color, linewidth=1.2)
        here = segments[-1] == segment + 1
        middle.plot(t[here].numpy(), signal[here].numpy(), color=color, linewidth=1.6)
    shading = {"color": VERMILION, "alpha": 0.16, "linewidth": 0}
    above.axvspan(0.5, length + 0.5, **shading)
    middle.axvspan(0, room, **shading)
    above.set(xlim=(0.5, len(tokens) + 0.5), ylim=(-limit, limit), xlabel="token", ylabel="written")
    middle.set(xlim=(0, 1), ylim=(-limit, limit), ylabel="remembered")
    middle.set_title("shaded: the first segment and the room that it has", fontsize="small")
    tidy(above)
    tidy(middle)
    _room(figure, below, segments)
    return figure


def draw_token_map(
    t: Float[Tensor, " query_pos"], tokens: Mapping[str, Float[Tensor, " query_pos"]], figure: Figure | None = None
) -> Figure:
    """Which token sits at each position: one line for each way to update the memory.

    Args:
        t: positions in [0, 1].
        tokens: token numbers (`age_map`), by what is said of them in the legend.
        figure: drawn into again; None makes a new one.

    Example:
        >>> t = torch.tensor([0.0, 0.5, 1.0])
        >>> draw_token_map(t, {"plain": 10 * t}).axes[0].lines[0].get_label()
        'plain'
    """
    figure = blank(figure, height=2.8)
    axes = figure.subplots()
    for index, (name, numbers) in enumerate(tokens.items()):
        axes.plot(t.numpy(), numbers.numpy(), color=CYCLE[index], linestyle=DASHES[index % 4], linewidth=2, label=name)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel=MEMORY_AXIS, ylabel="token that sits there")
    tidy(axes, legend=True)
    return figure


def draw_read_back(
    written: Mapping[str, Float[Tensor, " pos"]],
    remembered: Mapping[str, Float[Tensor, "age pos"]],
    ages: Sequence[int],
    figure: Figure | None = None,
) -> Figure:
    """Segments as they were written, and as they are read back at their address when they have aged.

    Args:
        written: a segment's tokens, by its name.
        remembered: what is read back, a row for each age, by the same names.
        ages: the ages, in updates.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_read_back({"ones": torch.ones(3)}, {"ones": torch.ones(2, 3)}, ages=[1, 4])
        >>> [axes.get_title() for axes in figure.axes]
        ['after 1 update', 'after 4 updates']
    """
    figure = blank(figure, height=0.9 + 1.0 * len(written))
    panels = figure.subplots(len(written), len(ages), sharex=True, sharey="row", squeeze=False)
    for row, (name, tokens) in zip(panels, written.items(), strict=True):
        place = (torch.arange(len(tokens)) + 1) / len(tokens)
        for axes, values in zip(row, remembered[name], strict=True):
            axes.plot(place, tokens, color="0.7", linewidth=1, label="written")
            axes.plot(place, values, color=BLUE, linewidth=1.8, label="read back")
            tidy(axes)
        low, high = row[0].get_ylim()
        row[0].set(ylabel=name, ylim=(min(low, 0), max(high, 0)))  # shared by the row; a share of 0 is in view
    for axes, age in zip(panels[0], ages, strict=True):
        axes.set_title(f"after {age} update{'s' * (age != 1)}", fontsize="medium")
    panels[0, -1].legend(loc="lower right", frameon=False, fontsize="small")
    figure.supxlabel("place within the segment", fontsize="medium")
    return figure


def draw_forgetting(
    mass: Float[Tensor, " age"],
    energy: Float[Tensor, " age"],
    spectral_radius: int | float | None = None,
    figure: Figure | None = None,
) -> Figure:
    """What is left of a segment by its age: of a constant's mass, and of white noise's energy.

    Args:
        mass: of `retained_mass`.
        energy: of `retained_energy`.
        spectral_radius: largest modulus of an eigenvalue; its powers are drawn for comparison if it is given.
        figure: drawn into again; None makes a new one.

    Example:
        >>> mass, energy = torch.tensor([1.0, 0.75]), torch.tensor([1.0, 0.5])
        >>> [line.get_label() for line in draw_forgetting(mass, energy, 0.5).axes[0].lines][:3]
        ['mass', 'energy', 'powers of the spectral radius']
    """
    figure = blank(figure, height=2.8)
    axes = figure.subplots()
    ages = torch.arange(len(mass))
    axes.plot(ages, mass, "o-", color=BLUE, markersize=4, label="mass")
    axes.plot(ages, energy, "s--", color=VERMILION, markersize=4, label="energy")
    if spectral_radius is not None:
        powers = spectral_radius ** ages.double()
        axes.plot(ages, powers, ":", color=BLACK, linewidth=1.5, label="powers of the spectral radius")
    axes.axhline(0.5, color=GREY, linewidth=0.6)
    axes.set(xlim=(0, len(mass) - 1), ylim=(0, 1.05), xlabel="age in updates", ylabel="share that is left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, legend=True)
    return figure


def draw_powers(
    norms: Float[Tensor, " power"], spectral_radius: int | float, norm_name: str, figure: Figure | None = None
) -> Figure:
    """The norm of a matrix's powers beside the powers of its spectral radius, on a logarithmic axis.

    Args:
        norms: of the powers 0, 1, 2, ...
        spectral_radius: largest modulus of an eigenvalue.
        norm_name: which norm, for the legend.
        figure: drawn into again; None makes a new one.

    Example:
        >>> draw_powers(torch.tensor([1.0, 0.9, 0.7]), 0.5, "norm of A^k").axes[0].get_yscale()
        'log'
    """
    figure = blank(figure, height=2.8)
    axes = figure.subplots()
    powers = torch.arange(len(norms))
    axes.plot(powers, norms, color=GREEN, linewidth=2, label=norm_name)
    axes.plot(powers, spectral_radius ** powers.double(), ":", color=BLACK, label="powers of the spectral radius")
    axes.set(yscale="log", xlim=(0, len(norms) - 1), xlabel="power k", ylabel="size (logarithmic)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, legend=True)
    return figure
