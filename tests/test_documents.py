import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from infmem.tasks import documents
from infmem.tasks.documents import articles, decoded, file_documents, hub_documents, pieces, python_files, taken


def write(folder: Path, **files: bytes) -> list[tuple[str, Path]]:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [(name, folder / name) for name in files]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\r\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"some text\0and more", "binary"),
        (bytes(range(1, 256)) * 5, "binary"),
        ("text".encode("utf-16"), "binary"),
    ],
)
def test_what_is_no_text_has_a_reason(data, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        decoded(data)


def test_text_is_taken_as_it_is_but_for_broken_signs_and_ends_of_lines():
    assert decoded("\ufeffcafé\r\n∞\r".encode()) == "café\n∞\n"
    assert decoded(b"a" * 200 + b"\xff") == "a" * 200 + "\ufffd"


@pytest.mark.parametrize("text", ["", "one line", "one\ntwo\n", "x" * 1000, "\n" * 50, "ab\n" * 33 + "c" * 40 + "\nd"])
@pytest.mark.parametrize("most", [1, 7, 100])
def test_pieces_are_short_and_make_up_the_text(text, most):
    found = list(pieces(text, most))
    assert "".join(found) == text
    assert all(0 < len(piece) <= most for piece in found)
    for piece, after in pairwise(found):  # a cut in the middle of a line only where it must be
        assert piece.endswith("\n") or len(piece) == most, (piece, after)


def test_hostile_files_are_counted_and_left_out(tmp_path):
    files = write(tmp_path, a=b"text\n", b=b"", c=b"\0\1", d=b"text\n", e=b"x" * 700, f=b"more\r\n")
    left_out = Counter()
    found = list(taken([*files, ("gone", tmp_path / "gone")], left_out, most=300))
    assert [document.name for document in found] == ["a", "e", "e#2", "e#3", "f"]
    assert "".join(document.text for document in found[1:4]) == "x" * 700
    assert len({document.split for document in found[1:4]}) == 1, "parts of a file are in one split"
    assert left_out == {"empty": 1, "binary": 1, "the same as another": 1, "unreadable": 1}


def test_python_files_come_in_order_without_tests(tmp_path):
    for name in ("b/z.py", "a.py", "test/x.py", "b/tests/y.py", "b/test_it.py", "_sysconfigdata_x.py", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x = 1")
    assert [name for name, _ in python_files(tmp_path, "p/")] == ["p/a.py", "p/b/test_it.py", "p/b/z.py"]


def test_packages_are_those_of_the_list_that_are_installed(tmp_path):
    (tmp_path / "constraints.txt").write_text("# a comment\nno-such-package==1\neinops==0.8.2  # why\n")
    names = [name for name, _ in documents.package_files(tmp_path / "constraints.txt")]
    assert "einops/packing.py" in names and names == sorted(names)
    assert not any("test" in name.split("/") for name in names)
    with pytest.raises(ValueError, match="which only a clone of infmem has: use --corpus stdlib"):
        list(documents.package_files(tmp_path / "nothing.txt"))


WIKITEXT = """
 = Valkyria Chronicles III = 

 Senjō no Valkyria 3 : <unk> Chronicles .
 = = Gameplay = =

 The battle system = good .
= Tower Building =

 Built in 1840 .
"""


def test_articles_begin_at_titles_and_hold_their_sections():
    found = list(articles(WIKITEXT.splitlines(keepends=True)))
    assert [title for title, _ in found] == ["Valkyria Chronicles III", "Tower Building"]
    assert found[0][1].startswith(" = Valkyria") and "= = Gameplay = =" in found[0][1]
    assert "".join(text for _, text in found) == WIKITEXT.lstrip("\n"), "real lines end with a space, stripped ones not"


def test_a_file_of_articles_is_cut_by_them_and_another_one_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PART_CHARACTERS", 10)
    wiki, plain = (path for _, path in write(tmp_path, wiki=WIKITEXT.encode(), plain=b"word word\n" * 4))
    assert [document.name for document in file_documents(wiki)] == ["0 Valkyria Chronicles III", "1 Tower Building"]
    assert [document.name for document in file_documents(plain)] == [f"plain#{number}" for number in range(1, 5)]
    (tmp_path / "photo").write_bytes(b"\0\1")
    with pytest.raises(ValueError, match="photo is binary: name a file or a folder of text"):
        list(file_documents(tmp_path / "photo"))


class Datasets:
    """Stands for the package `datasets`, with rows in its real form, or without a network."""

    rows = None

    def load_dataset(self, repository, part, split, streaming):
        assert streaming
        if self.rows is None:
            raise ConnectionError(f"Couldn't reach {repository!r} on the Hub")
        return iter([{"text": text} for text in self.rows])


@pytest.fixture
def datasets(monkeypatch):
    found = Datasets()
    monkeypatch.setattr(documents, "require_package", lambda name: None)
    monkeypatch.setattr(documents, "import_module", lambda name: found)
    return found


def test_the_hub_gives_articles_and_books_with_its_own_splits(datasets):
    datasets.rows = WIKITEXT.splitlines(keepends=True)
    found = list(hub_documents("wikitext-103", most_documents=1))
    assert [document.name for document in found][:2] == [
        "train/0 Valkyria Chronicles III", "validation/0 Valkyria Chronicles III",
    ]  # fmt: skip
    assert Counter(document.split for document in found) == {"train": 1, "validation": 2, "test": 2}
    datasets.rows = ["A book.\nIts end.", "Another one."]
    found = list(hub_documents("pg-19", most_documents=None))
    assert [document.text for document in found[:2]] == datasets.rows
    assert Counter(document.split for document in found) == {"train": 2, "validation": 2, "test": 2}


def test_without_a_network_or_a_package_one_sentence_says_what_to_do(datasets, monkeypatch):
    with pytest.raises(ValueError, match=r"wikitext-103 comes from the Hugging Face hub \(Salesforce/wikitext\)"):
        list(hub_documents("wikitext-103", None))
    monkeypatch.undo()
    monkeypatch.setattr(documents, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("this needs the package datasets: pip install 'infmem[hf]'")):
        list(hub_documents("pg-19", None))
