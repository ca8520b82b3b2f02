import pytest

from infmem.tables import CURVE_FIELDS, read_table, write_curve, write_table


def test_what_is_written_is_read(tmp_path):
    rows = [{"name": "a, b", "number": "1"}, {"name": 'said "c"', "number": ""}]
    write_table(tmp_path / "new" / "table.csv", ("name", "number"), rows)
    assert read_table(tmp_path / "new" / "table.csv", ("name", "number")) == rows


def test_other_columns_are_refused_and_left(tmp_path):
    path = tmp_path / "table.csv"
    write_table(path, ("name",), [{"name": "a"}])
    with pytest.raises(ValueError, match=r"table.csv is not a list of names, which begins with name,number"):
        read_table(path, ("name", "number"), "a list of names")
    with pytest.raises(ValueError, match="number"):
        write_table(path, ("name",), [{"name": "b", "number": 1}])
    assert read_table(path, ("name",)) == [{"name": "a"}]


def test_a_curve_has_the_means_of_whole_parts(tmp_path):
    rows = [{"step": step, "loss": float(step), "accuracy": step / 100, "seconds": 0.5} for step in range(1, 8)]
    write_curve(tmp_path / "curve.csv", rows, every=3)
    assert read_table(tmp_path / "curve.csv", CURVE_FIELDS) == [
        {"step": "3", "loss": "2.0000", "accuracy": "0.0200"},
        {"step": "6", "loss": "5.0000", "accuracy": "0.0500"},
    ]
