"""What all pictures share: colours, and a figure that can be drawn into again and again."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart also by readers who are colour-blind. Lines that cross differ in dashes too.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "0.45"
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
COLORMAP = "cividis"  # for heat maps: perceptually even, and the same to readers who are colour-blind

MODEL_COLORS = {"infinite-former": BLUE, "transformer-xl": VERMILION, "window": GREEN}


def blank(figure: Figure | None, width: int | float = 7.5, height: int | float = 3.2) -> Figure:
    """A figure without contents: the given one wiped, or a new one of this size in inches.

    Example:
        >>> figure = blank(None, width=4, height=3)
        >>> figure.add_subplot() in figure.axes and blank(figure) is figure and not figure.axes
        True
    """
    if figure is None:
        return Figure(figsize=(width, height), dpi=100, layout="constrained")
    for axes in list(figure.axes):
        figure.delaxes(axes)  # cleared while there, axes with logarithmic scales warn (matplotlib before 3.11)
    figure.clear()
    return figure


def tidy(axes: Axes, *, legend: bool = False) -> None:
    """Without the upper and the right spine; with a legend beside the axes, where it hides nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
