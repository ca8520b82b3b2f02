import pytest
import torch

from infmem.exercises import ALL
from infmem.plots import draw_target


@pytest.mark.parametrize("name", ALL)
def test_the_target_of_every_exercise_can_be_drawn(name):
    target = ALL[name].target()
    figure = draw_target(target)
    figure.canvas.draw()
    title = figure.axes[0].get_title()
    assert title.startswith("the target: ")
    assert (str(tuple(target.shape)) in title) if isinstance(target, torch.Tensor) else (type(target).__name__ in title)


def test_what_is_drawn_is_the_target():
    table, row = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([1.0, -2.0, 4.0])
    assert draw_target(table).axes[0].images[0].get_array().tolist() == table.tolist()
    assert draw_target(table.expand(3, 2, 2)).axes[0].images[0].get_array().tolist() == table.tolist()
    part = draw_target(table.expand(3, 2, 2)).axes[0]
    assert (part.get_ylabel(), part.get_xlabel()) == (
        "second index",
        "third index",
    ) and "first of 3" in part.get_title()
    figure = draw_target(row)
    assert list(figure.axes[0].lines[0].get_ydata()) == row.tolist()
    assert draw_target(7, figure) is figure and figure.axes[0].texts[0].get_text() == "7"
