import numpy as np
import pytest
import torch

from infmem import trained
from infmem.explorers.learning_curves import recorded_lines, recorded_scores
from infmem.plots import draw_ablation, draw_accuracy_by_length, draw_answers, draw_scores, draw_sequence
from infmem.plots.learning_curves import LINE_NAMES, LINE_STYLES, VARIANTS, model_style
from infmem.plots.style import MODEL_COLORS
from infmem.tasks.sorting import ReferenceLines

LINES = {
    n: ReferenceLines(
        chance=0.18, last_segment=0.2 + n / 1e4, receptive_field=0.4 - n / 1e4, exact_counts=0.8 + n / 1e4
    )
    for n in (101, 307, 503)
}


def test_a_sequence_s_counts_and_shares_stand_in_the_order_of_the_answer():
    symbols = torch.tensor([4] * 5 + [9] * 7 + [2] * 1)
    figure = draw_sequence(symbols, first_seen=11, num_parts=13)
    left, right = figure.axes[:2]
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels[:5] == ["9", "4", "2", "0", "1"] and len(set(labels)) == 20
    shares = np.asarray(left.images[0].get_array())
    assert shares.shape == (20, 13)
    np.testing.assert_array_equal(shares.sum(1)[:4], [700, 500, 100, 0])
    assert shares[1, :5].tolist() == [100] * 5 and shares[1, 5:].max() == 0
    everything, seen = ([bar.get_width() for bar in container] for container in right.containers)
    assert everything[:4] == [7, 5, 1, 0] and seen[:4] == [1, 0, 1, 0]
    (line,) = left.lines
    assert set(line.get_xdata()) == {11}


@pytest.mark.parametrize("first_seen", [0, 37])
def test_all_or_nothing_of_a_sequence_can_be_seen(first_seen):
    symbols = torch.arange(37) % 20
    everything, seen = draw_sequence(symbols, first_seen, num_parts=5).axes[1].containers
    assert sum(bar.get_width() for bar in everything) == 37
    assert sum(bar.get_width() for bar in seen) == 37 - first_seen


def test_wrong_answers_are_crossed_out_and_right_ones_counted():
    truth = torch.tensor([3, 1, 4, 0, 2])
    axes = draw_answers(truth, {"one": torch.tensor([3, 1, 0, 4, 2]), "other": torch.tensor([0, 0, 0, 0, 0])}).axes[0]
    assert [text.get_text() for text in axes.texts] == list("31402" + "31042" + "00000")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["truth", "one: 3 of 5", "other: 1 of 5"]
    crossed = [(round(line.get_xdata().mean()), round(line.get_ydata().mean())) for line in axes.lines]
    assert crossed == [(3, 1), (4, 1), (1, 2), (2, 2), (3, 2), (5, 2)]


def test_accuracy_by_length_has_every_score_in_the_order_of_lengths_and_every_line():
    scores = [
        {"name": name, "length": length, "accuracy": 0.1 + length / 1000 + 0.01 * index, "ci95": 0.013}
        for index, name in enumerate(["window", "few-basis"])
        for length in (503, 101, 307)
    ]
    axes = draw_accuracy_by_length(scores, LINES, title="a title", trained_at=307).axes[0]
    names, handles = [], {}
    for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
        names.append(name)
        handles[name] = handle
    assert sorted(names) == sorted(["window", "few-basis", "trained at 307", *LINE_NAMES.values()])
    for index, name in enumerate(["window", "few-basis"]):
        line, _, (bars,) = handles[name]
        assert line.get_xdata().tolist() == [101, 307, 503]
        np.testing.assert_allclose(
            line.get_ydata().astype(float), [0.201 + 0.01 * index, 0.407 + 0.01 * index, 0.603 + 0.01 * index]
        )
        np.testing.assert_allclose([float(segment[1, 1] - segment[0, 1]) for segment in bars.get_segments()], 0.026)
    for line in LINE_STYLES:
        drawn = handles[LINE_NAMES[line]]
        np.testing.assert_allclose(drawn.get_ydata(), [getattr(LINES[n], line) for n in (101, 307, 503)])


def test_scores_are_ordered_and_keep_their_intervals():
    scores = [{"name": n, "accuracy": a, "ci95": 0.02} for n, a in [("gate", 0.7), ("sticky", 0.2), ("none", 0.5)]]
    axes = draw_scores(scores, LINES[101]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sticky", "none", "gate"]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.5, 0.7]
    assert {line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2} >= {0.18, LINES[101].exact_counts}


def test_changed_memories_stand_below_the_usual_one_with_intervals_and_errors_of_their_own():
    scores = [{"name": n, "accuracy": a, "ci95": 0.01 * a} for n, a in (("best", 0.9), ("gate", 0.7), ("sticky", 0.3))]
    errors = {"sticky": [3.0, 5.0], "best": [0.2, 0.1], "gate": [0.7, 0.5], "not shown": [1.0, 1.0]}
    left, right = draw_ablation(scores, errors, marked=1, what="off").axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["best", "gate", "sticky"]
    assert left.get_ylim()[0] > left.get_ylim()[1], "the usual one is above"
    for place, (row, bars) in enumerate(zip(scores, left.containers, strict=True)):
        middle, _, (segments,) = bars.lines
        assert (middle.get_xdata()[0], middle.get_ydata()[0]) == (row["accuracy"], place)
        ends = segments.get_segments()[0][:, 0]
        np.testing.assert_allclose(ends, [row["accuracy"] - row["ci95"], row["accuracy"] + row["ci95"]])
    *curves, mark = right.lines
    assert [curve.get_ydata().tolist() for curve in curves] == [errors[row["name"]] for row in scores]
    assert mark.get_xdata()[0] == 1 and right.get_yscale() == "log" and right.get_title() == "off"


def test_models_look_the_same_in_every_picture_and_differ_from_each_other():
    names = [*MODEL_COLORS, *VARIANTS]
    styles = [tuple(model_style(name, 0).values()) for name in names]
    assert len(set(styles)) == len(names)
    assert styles == [tuple(model_style(name, 5).values()) for name in names]
    assert [model_style(name, 0)["color"] for name in MODEL_COLORS] == list(MODEL_COLORS.values())
    assert model_style("mine", 1) != model_style("mine", 2)


def test_the_variants_that_have_styles_are_those_that_come_with_the_package():
    assert {*MODEL_COLORS, *VARIANTS} == set(trained.names())


def test_recorded_scores_are_read_and_a_missing_or_foreign_file_is_told_in_a_sentence(tmp_path):
    path = tmp_path / "scores.csv"
    with pytest.raises(ValueError, match=r"there are no recorded scores at .*`make models`"):
        recorded_scores(path)
    row = "window,101,3,0.25,0.01,0.06,0.8,0.24,0.23,0.18,17.5"
    path.write_text(
        "name,length,seed,accuracy,ci95,free_running,exact_counts,receptive_field,last_segment,chance,seconds\n"
    )
    assert recorded_scores(path) == []
    with path.open("a") as file:
        file.write(f"{row}\n{row.replace('window', 'transformer-xl').replace('0.24', '0.41')}\n")
    first, second = recorded_scores(path)
    assert (first["name"], first["length"], first["seed"], first["receptive_field"]) == ("window", 101, 3, 0.24)
    assert recorded_lines([first, second]) == {101: ReferenceLines(0.18, 0.23, 0.41, 0.8)}
    path.write_text("name,length\nwindow,101\n")
    with pytest.raises(ValueError, match="must have the columns name, length, seed"):
        recorded_scores(path)
