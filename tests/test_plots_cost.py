import numpy as np
import pytest

from infmem import plots
from infmem.plots.cost import short
from infmem.plots.style import blank

CONTEXTS = (1024, 4096, 16384)


def rows() -> list[dict]:
    made = []
    for factor, name in ((1, "forward"), (3, "forward and backward")):
        row = {"pass": name, "precision": "float32", "key_pos": None}
        made.append(row | {"what": "memory read", "milliseconds": 2.0 * factor})
        made.append(row | {"what": "memory step", "milliseconds": 5.0 * factor})
        made.append(row | {"what": "memory step", "milliseconds": 4.0 * factor, "precision": "bfloat16"})
        for what in ("attention", "attention step"):
            made += [row | {"what": what, "key_pos": n, "milliseconds": factor * n / 1000} for n in CONTEXTS[::-1]]
    return made


@pytest.mark.parametrize(("precision", "step"), [("float32", 5.0), ("bfloat16", 4.0)])
def test_each_pass_has_a_panel_with_attention_rising_and_the_memory_level(precision, step):
    recorded = rows()
    if precision == "bfloat16":
        recorded = [row for row in recorded if row["what"] != "memory read"]
    figure = plots.draw_crossover(recorded, "somewhere", precision)
    assert [axes.get_title() for axes in figure.axes] == ["forward", "forward and backward"]
    assert figure.get_suptitle() == "somewhere"
    for axes, factor in zip(figure.axes, (1, 3), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        for what in ("attention", "attention step"):
            np.testing.assert_array_equal(lines[what].get_xdata(), CONTEXTS)
            np.testing.assert_allclose(lines[what].get_ydata(), factor * np.array(CONTEXTS) / 1000)
        label = "memory step" if precision == "float32" else "memory step, bfloat16"  # attention is in float32 here
        assert list(lines[label].get_ydata()) == [step * factor] * 2
        assert axes.get_xscale() == axes.get_yscale() == "log"
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(styles) == len(figure.axes[0].lines)
    assert figure.axes[0].get_legend() is None and figure.axes[1].get_legend() is not None


def test_a_stream_shows_costs_and_states_and_leaves_out_what_did_not_fit():
    times = {"full attention": [1, 10, None], "infinite-former": [5, 5, 5]}
    states = {"full attention": [40, 400, 4000], "infinite-former": [70, 70, 70]}
    left, right = plots.draw_stream([10, 100, 1000], times, states, "seconds", marked=50).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("seconds", "bytes of state")
    lines = {line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in left.lines}
    assert lines["full attention"] == [(10, 1), (100, 10)]
    assert lines["infinite-former"] == [(10, 5), (100, 5), (1000, 5)]
    assert list(right.lines[0].get_ydata()) == [40, 400, 4000]
    assert [list(axes.lines[-1].get_xdata()) for axes in (left, right)] == [[50, 50], [50, 50]]


def test_figures_are_drawn_into_again():
    figure = blank(None)
    assert plots.draw_crossover(rows(), figure=figure) is figure
    assert plots.draw_stream([10, 100], {"transformer-xl": [1, 1]}, {"transformer-xl": [1, 1]}, figure=figure) is figure
    assert len(figure.axes) == 2


def test_counts_in_few_letters():
    assert [short(number) for number in (7, 999, 1000, 65536, 2**20, 2**30, 10**12)] == [
        "7",
        "999",
        "1k",
        "64k",
        "1M",
        "1G",
        "1000G",
    ]
