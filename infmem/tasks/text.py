"""Long real text that is on every machine, and the corpora of the paper where there is a network.

The default is the Python source that is installed: one document per file, in an order and a split that depend on names
alone. Code repeats its own names thousands of tokens apart, which is what a memory is for. Any folder or file of text
is read the same way, and WikiText-103 and PG-19 come from the Hugging Face hub.
"""

import hashlib
import platform
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from infmem.tasks.documents import (
    HUB,
    SPLITS,
    Document,
    fair_order,
    file_documents,
    hub_documents,
    package_files,
    python_files,
    taken,
)
from infmem.validation import require

CorpusName = Literal["stdlib", "environment", "wikitext-103", "pg-19"]


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, and where they come from.

    Args:
        name: of the corpus.
        documents: in order.
        left_out: how many files were not taken, by the reason.
        sources: versions of what was read.
    """

    name: str
    documents: tuple[Document, ...]
    left_out: dict[str, int]
    sources: dict[str, str]

    @property
    def hash(self) -> str:
        """What tells this corpus from any other: 16 hexadecimal digits over names, splits and texts in order.

        Example:
            >>> Corpus("mine", (Document("a", "train", "text"),), {}, {}).hash
            'c35aba5e79867f7e'
        """
        digest = hashlib.blake2b(digest_size=8)
        for document in self.documents:
            for part in document:
                encoded = part.encode()
                digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return digest.hexdigest()


def read_corpus(
    name: CorpusName = "stdlib",
    data: Path | None = None,
    *,
    most_documents: int | None = None,
    constraints: Path = Path(__file__).parents[2] / "constraints.txt",
) -> Corpus:
    """Read a corpus.

    Args:
        name: which one; not used with `data`.
        data: a folder with a document per file, or one file.
        most_documents: for training, and an eighth of it for validation and test each, except from the hub, which has
            its own; None takes all.
        constraints: the list of packages of `environment`.

    Raises:
        ValueError: if there is nothing to read, or too little for three splits.
    """
    left_out, sources = Counter(), {}
    if data is not None:
        require(data.exists(), f"there is no file or folder {data}: name another one (--data)")
        files = ((path.relative_to(data).as_posix(), path) for path in sorted(data.rglob("*")) if path.is_file())
        documents = list(taken(files, left_out) if data.is_dir() else file_documents(data))
    elif name in HUB:
        documents = list(hub_documents(name, most_documents))
    else:
        files = list(python_files(Path(sysconfig.get_paths()["stdlib"])))
        sources["python"] = platform.python_version()
        if name == "environment":
            packages = list(package_files(constraints))
            sources |= {package: metadata.version(package) for package in _packages_of(packages)}
            files += packages
        documents = list(taken(files, left_out))
    if most_documents is not None and (data is not None or name not in HUB):
        documents = _fewer(documents, most_documents)
    where = str(data) if data is not None else name
    for split in SPLITS:
        require(
            any(document.split == split for document in documents),
            f"{where} has no document for {split} ({len(documents)} documents in all, left out: {dict(left_out)}): "
            "name a folder with some dozens of text files, or a longer file (--data)",
        )
    return Corpus(data.name if data is not None else name, tuple(documents), dict(left_out), sources)


def _fewer(documents: list[Document], most: int) -> list[Document]:
    """Those documents of each split whose names have the smallest hashes, in their order: a fair choice of all."""
    chosen: set[str] = set()
    for split in SPLITS:
        names = [document.name for document in documents if document.split == split]
        order = fair_order(names)[: most if split == "train" else max(1, most // 8)]
        chosen.update(names[number] for number in order)
    return [document for document in documents if document.name in chosen]


def _packages_of(files: Iterable[tuple[str, Path]]) -> list[str]:
    """The installed packages that own these files' top-level folders or modules."""
    tops = {name.partition("/")[0].removesuffix(".py") for name, _ in files}
    owners = metadata.packages_distributions()
    return sorted({owner for top in tops - set(sys.stdlib_module_names) for owner in owners.get(top, [])[:1]})
