import dataclasses
import sys
from collections import Counter

import pytest

from infmem.tasks import text
from infmem.tasks.documents import Document
from infmem.tasks.text import Corpus, read_corpus


@pytest.fixture(scope="module")
def stdlib() -> Corpus:
    return read_corpus("stdlib")


def test_the_standard_library_is_long_text_in_order_without_its_tests(stdlib):
    names = [document.name for document in stdlib.documents]
    assert names == sorted(names) and "json/decoder.py" in names
    assert not any(name.startswith("test/") or "site-packages" in name for name in names)
    assert sum(len(document.text) for document in stdlib.documents) > 5_000_000
    shares = Counter(document.split for document in stdlib.documents)
    assert 0.7 < shares["train"] / len(names) < 0.9 and min(shares.values()) > 30
    assert stdlib.sources == {"python": ".".join(map(str, sys.version_info[:3]))}


def test_the_hash_is_that_of_the_text_alone(stdlib):
    assert read_corpus("stdlib").hash == stdlib.hash
    first, *others = stdlib.documents
    for changed in (first._replace(text=first.text + "x"), first._replace(name="x"), first._replace(split="test")):
        assert dataclasses.replace(stdlib, documents=(changed, *others)).hash != stdlib.hash
    moved = Corpus("a", (Document("n", "train", "ab"), Document("m", "train", "")), {}, {})
    assert moved.hash != Corpus("a", (Document("n", "train", "a"), Document("m", "train", "b")), {}, {}).hash


def test_fewer_documents_are_a_fair_choice_in_the_same_order(stdlib):
    fewer = read_corpus("stdlib", most_documents=64)
    assert Counter(document.split for document in fewer.documents) == {"train": 64, "validation": 8, "test": 8}
    names = [document.name for document in fewer.documents]
    assert names == sorted(names) and set(fewer.documents) <= set(stdlib.documents)
    assert len({name[0] for name in names}) > 10, "from all over the alphabet"


def test_environment_adds_the_packages_and_names_their_versions(tmp_path):
    (tmp_path / "constraints.txt").write_text("einops==0.8.2\njaxtyping==0.3\n")
    corpus = read_corpus("environment", constraints=tmp_path / "constraints.txt")
    assert {"python", "einops", "jaxtyping"} == set(corpus.sources)
    assert {"einops/packing.py", "json/decoder.py"} <= {document.name for document in corpus.documents}


def test_a_folder_is_a_document_per_file(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}.txt").write_text(f"text number {number}")
    corpus = read_corpus(data=tmp_path)
    assert [document.name for document in corpus.documents] == [f"{number:02}.txt" for number in range(40)]
    assert corpus.name == tmp_path.name


def test_too_little_text_is_refused_with_what_was_left_out(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\0")
    (tmp_path / "one.txt").write_text("one")
    with pytest.raises(ValueError, match=r"has no document for \w+ \(1 documents in all, left out: \{'binary': 1\}\)"):
        read_corpus(data=tmp_path)
    with pytest.raises(ValueError, match="there is no file or folder"):
        read_corpus(data=tmp_path / "nowhere")


def test_the_hub_is_asked_for_as_many_documents_as_are_wanted(monkeypatch):
    asked = []

    def from_hub(name, most):
        asked.append((name, most))
        return (Document(split, split, split) for split in ("train", "validation", "test"))

    monkeypatch.setattr(text, "hub_documents", from_hub)
    assert len(read_corpus("pg-19", most_documents=2000).documents) == 3
    assert asked == [("pg-19", 2000)]
