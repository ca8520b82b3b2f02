"""Documents of text, from files of any kind and from the Hugging Face hub.

Their order and their splits depend on names alone. What is no text is left out and counted.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from infmem.validation import require

Split = Literal["train", "validation", "test"]
HubName = Literal["wikitext-103", "pg-19"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# Folders of tests, of other packages, and of what is compiled; and modules that differ from machine to machine.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
OF_THIS_MACHINE = ("_sysconfigdata", "__phello__")

# Characters of a document at most, and of one where a single file has to give several.
MOST_CHARACTERS, PART_CHARACTERS = 2**20, 2**16

# Text in which more than this share of the characters could not be decoded is something else.
MOST_BROKEN = 0.02

TITLE = re.compile(r"^ ?= (?!= ).*(?<! =) = ?$")  # WikiText marks an article so, and its sections with more signs

HUB: dict[HubName, tuple[str, str | None]] = {
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "pg-19": ("emozilla/pg19", None),
}


class Document(NamedTuple):
    """A text that is read from its start to its end.

    Args:
        name: unique in its corpus, and the same on every machine.
        split: what it is for.
        text: the whole of it.
    """

    name: str
    split: Split
    text: str


def require_package(name: str) -> None:
    """Raise `ValueError` with the line that installs an optional package, unless it is there.

    Example:
        >>> require_package("torch")
    """
    require(find_spec(name) is not None, f"this needs the package {name}: pip install 'infmem[hf]'")


def split_of(name: str) -> Split:
    """The split of a document, by the hash of its name: of ten documents one is for validation and one for the test.

    Example:
        >>> [split_of(name) for name in ("json/decoder.py", "ast.py", "bisect.py")]
        ['train', 'train', 'test']
    """
    place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % 10
    return {0: "validation", 1: "test"}.get(place, "train")


def fair_order(names: Sequence[str]) -> list[int]:
    """Numbers of names in the order of their hashes: the first few are a fair choice of all.

    Example:
        >>> fair_order(["a", "b", "c"])
        [0, 2, 1]
    """
    return sorted(range(len(names)), key=lambda number: hashlib.blake2b(names[number].encode()).digest())


def decoded(data: bytes) -> str:
    """The text of a file, with `\\n` at the ends of lines and a sign for each broken character.

    Args:
        data: what is in the file.

    Raises:
        ValueError: `empty` or `binary`, where there is no text.

    Example:
        >>> decoded(b"caf\\xc3\\xa9, " + b"text " * 20 + b"\\xff\\r\\n")[-7:]
        'text �\\n'
    """
    require(b"\0" not in data, "binary")
    text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    require(bool(text.strip()), "empty")
    require(text.count("\ufffd") <= MOST_BROKEN * len(text), "binary")
    return text


def pieces(text: str, most: int) -> Iterator[str]:
    """A text in pieces of at most so many characters, cut at the end of a line where there is one.

    Args:
        text: what to cut.
        most: characters of a piece, >= 1.

    Example:
        >>> list(pieces("one\\ntwo\\nthree", 9)), list(pieces("abcde", 2))
        (['one\\ntwo\\n', 'three'], ['ab', 'cd', 'e'])
    """
    require(most >= 1, f"most must be at least 1 character, got {most}")
    start = 0
    while start < len(text):
        end = start + most
        newline = text.rfind("\n", start, end) if end < len(text) else -1
        end = newline + 1 if newline >= start else end
        yield text[start:end]
        start = end


def python_files(root: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """The Python sources below a folder with their names, without tests, in the order of their names.

    Args:
        root: the folder.
        prefix: of each name.
    """
    found = {}
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if not LEFT_OUT & set(relative.parts) and not path.name.startswith(OF_THIS_MACHINE):
            found[prefix + relative.as_posix()] = path
    return iter(sorted(found.items()))


def package_files(constraints: Path) -> Iterator[tuple[str, Path]]:
    """The Python sources of those pinned packages that are installed.

    Args:
        constraints: file with a line `name==version` for each package.

    Raises:
        ValueError: if there is no such file.
    """
    require(
        constraints.is_file(),
        f"the corpus environment needs the list of packages in {constraints}, which only a clone of infmem has: use "
        "--corpus stdlib, or --data with any folder",
    )
    lines = (line.partition("#")[0].partition("==")[0].strip() for line in constraints.read_text().splitlines())
    for package in sorted(filter(None, lines)):
        try:
            listed = metadata.distribution(package).files or []
        except metadata.PackageNotFoundError:
            continue
        inside = [file for file in listed if file.suffix == ".py" and ".." not in file.parts]
        for file in sorted(inside, key=str):
            if not LEFT_OUT & set(file.parts):
                yield file.as_posix(), Path(file.locate())


def taken(files: Iterable[tuple[str, Path]], left_out: Counter, most: int = MOST_CHARACTERS) -> Iterator[Document]:
    """The documents of some files; a file with the text of another one, or without text, is only counted.

    Args:
        files: their names and paths.
        left_out: counts reasons.
        most: characters of a document; what is longer becomes several, in one split.
    """
    texts = set()
    for name, path in files:
        try:
            text = decoded(path.read_bytes())
        except (OSError, ValueError) as error:
            left_out["unreadable" if isinstance(error, OSError) else str(error)] += 1
            continue
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in texts:
            left_out["the same as another"] += 1
            continue
        texts.add(digest)
        for number, piece in enumerate(pieces(text, most)):
            yield Document(name + (f"#{number + 1}" if number else ""), split_of(name), piece)


def articles(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """WikiText's articles with their titles, each with all of its lines.

    Args:
        lines: with or without their ends.

    Example:
        >>> list(articles([" = One = ", " = = Part = = ", "", " = Two = ", "text"]))
        [('One', ' = One = \\n = = Part = = \\n\\n'), ('Two', ' = Two = \\ntext\\n')]
    """
    title, kept = "", []
    for line in lines:
        line = line.rstrip("\n")
        if TITLE.match(line):
            if any(map(str.strip, kept)):
                yield title, "\n".join(kept) + "\n"
            title, kept = line.strip(" ="), []
        kept.append(line)
    if any(map(str.strip, kept)):
        yield title, "\n".join(kept) + "\n"


def file_documents(path: Path) -> Iterator[Document]:
    """The documents of one file: WikiText's articles if it has their titles, else parts of equal size.

    Args:
        path: the file.

    Raises:
        ValueError: if there is no text in it.
    """
    try:
        text = decoded(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is {error}: name a file or a folder of text (--data)") from error
    lines = text.split("\n")
    if any(map(TITLE.match, lines)):
        for number, (title, article) in enumerate(articles(lines)):
            yield Document(f"{number} {title}", split_of(f"{number} {title}"), article)
        return
    for number, piece in enumerate(pieces(text, PART_CHARACTERS)):
        name = f"{path.name}#{number + 1}"
        yield Document(name, split_of(name), piece)


def hub_documents(name: HubName, most_documents: int | None) -> Iterator[Document]:
    """Documents of a corpus of the Hugging Face hub, streamed; the splits are its own.

    Args:
        name: which.
        most_documents: for training; None takes all. Validation and test are whole.

    Raises:
        ValueError: saying what is missing.
    """
    require_package("datasets")
    (repository, part), datasets = HUB[name], import_module("datasets")
    for split in SPLITS:
        try:
            rows = datasets.load_dataset(repository, part, split=split, streaming=True)
            texts = (row["text"] for row in rows)
            found = articles(texts) if name == "wikitext-103" else ((str(n), text) for n, text in enumerate(texts))
            for number, (title, text) in enumerate(islice(found, most_documents if split == "train" else None)):
                yield Document(f"{split}/{number} {title}", split, text)
        except Exception as error:  # whatever its libraries raise, of which none can be imported without it
            raise ValueError(
                f"{name} comes from the Hugging Face hub ({repository}), which could not be read from here "
                f"({type(error).__name__}): connect to the network, or name a file or folder that has it with --data"
            ) from error
