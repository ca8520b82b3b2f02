"""What every explorer is: controls, one picture and one sentence, redrawn when a control moves."""

import base64
import html
import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from infmem.plots.style import blank
from infmem.validation import require

WIDE = {"description_width": "14em"}
LAYOUT = {"width": "36em"}


class Explorer(widgets.VBox):
    """Controls above, a picture, and a sentence that says what the picture now shows.

    Args:
        title: what is explored, in a few words.
        show: draws into the figure that it is given, with the controls' values as keywords, and returns the sentence.
        controls: widgets with a `value`, named as the keywords of `show`.
        size: of the picture, in inches.

    One figure is wiped and drawn anew each time, so nothing is left behind by what was shown before. An impossible
    choice leaves the picture as it is and says why.

    Example:
        >>> def show(figure, height):
        ...     figure.add_subplot().bar([0], [height])
        ...     return f"The bar is {height} high."
        >>> explorer = Explorer("A bar", show, {"height": int_slider("height", 3, 1, 5)}, size=(3, 2))
        >>> explorer.sentence
        'The bar is 3 high.'
        >>> explorer.controls["height"].value = 5
        >>> explorer.sentence
        'The bar is 5 high.'
    """

    def __init__(
        self,
        title: str,
        show: Callable[..., str],
        controls: Mapping[str, widgets.Widget],
        size: tuple[int | float, int | float] = (7.5, 3.2),
    ):
        self.title, self.controls, self.sentence, self.failed = title, dict(controls), "", False
        self._show, self._figure = show, blank(None, *size)
        self.image = widgets.Image(format="png", layout={"width": f"{100 * size[0]:.0f}px", "max_width": "100%"})
        self.caption = widgets.HTML()
        heading = widgets.HTML(f"<b>{html.escape(title)}</b>")
        for control in self.controls.values():
            control.observe(lambda change: self.redraw(), "value")
        self.redraw()
        super().__init__([heading, *self.controls.values(), self.image, self.caption])

    @property
    def values(self) -> dict[str, Any]:
        """What the controls say."""
        return {name: control.value for name, control in self.controls.items()}

    def redraw(self) -> None:
        """Draw picture and sentence for the controls' values."""
        blank(self._figure)
        try:
            for control in self.controls.values():
                require(control.value is not None, f"{control.description}: nothing is chosen")
                is_finite = not isinstance(control.value, float) or math.isfinite(control.value)
                require(is_finite, f"{control.description} must be a number, got {control.value}")
            sentence, self.failed = self._show(self._figure, **self.values), False
        except ValueError as error:  # the library says what it expected, what came and what to do
            sentence, self.failed = f"This choice is not possible: {error}", True
        if not self.failed:
            self.image.value = to_png(self._figure)
        self.sentence = " ".join(sentence.split())
        self.caption.value = f'<div role="status" style="max-width: 48em">{html.escape(self.sentence)}</div>'

    def close(self) -> None:
        """Remove the explorer and all its parts, which ipywidgets would keep, with what they draw, until the end."""
        for part in self.children:
            for widget in (getattr(part, "style", None), part.layout, part):
                if widget is not None:
                    widget.close()
        self.layout.close()
        super().close()

    def _repr_mimebundle_(self, **options) -> dict[str, Any]:
        """The live widget, and for readers without a kernel the picture and the sentence as they are now."""
        live = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        by_widgets = getattr(super(), "_repr_mimebundle_", None)  # ipywidgets 7 has none
        bundle = by_widgets(**options) if by_widgets else {"application/vnd.jupyter.widget-view+json": live}
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["image/png"] = base64.b64encode(self.image.value).decode()
        data["text/plain"] = f"{self.title}. {self.sentence}"
        return bundle


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def int_slider(name: str, value: int, low: int, high: int, step: int = 1) -> widgets.IntSlider:
    """A slider over whole numbers, with its name and its value in view."""
    return widgets.IntSlider(value=value, min=low, max=high, step=step, description=name, style=WIDE, layout=LAYOUT)


def float_slider(
    name: str, value: int | float, low: int | float, high: int | float, step: int | float, readout_format: str = ".2f"
) -> widgets.FloatSlider:
    """A slider over real numbers."""
    return widgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        description=name,
        readout_format=readout_format,
        style=WIDE,
        layout=LAYOUT,
    )


def choice_slider(name: str, value: Any, options: list) -> widgets.SelectionSlider:
    """A slider over values that are named one by one: uneven steps, or powers of ten."""
    return widgets.SelectionSlider(value=value, options=options, description=name, style=WIDE, layout=LAYOUT)


def choice(name: str, value: Any, options: list) -> widgets.Dropdown:
    """A menu of words."""
    return widgets.Dropdown(value=value, options=options, description=name, style=WIDE, layout=LAYOUT)


def switch(name: str, value: bool) -> widgets.Checkbox:
    """Something that is on or off."""
    return widgets.Checkbox(value=value, description=name, style=WIDE, layout=LAYOUT)
