"""Tokens of a corpus: a byte-level BPE learned on its training documents, and one file that holds all of them.

The file is all that a training needs, so tokens that were prepared on one machine can be carried to another.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from infmem.checkpoint import write_text
from infmem.tasks.documents import SPLITS, Split, pieces, require_package
from infmem.tasks.text import Corpus, CorpusName, read_corpus
from infmem.validation import require

FORMAT = "infmem tokens 1"

# Characters that are encoded at once, and that the vocabulary is learned from: enough for its pairs to be the same.
PIECE_CHARACTERS, LEARNING_CHARACTERS = 2**15, 2**25


@dataclass(frozen=True)
class Documents:
    """Tokens of documents, one after another.

    Args:
        tokens: of all.
        starts: where each begins, and where the last one ends.
        num_bytes: length of each as UTF-8.
        names: of each.
    """

    tokens: Int[Tensor, " token"]
    starts: Int[Tensor, " document_and_one"]
    num_bytes: Int[Tensor, " document"]
    names: tuple[str, ...]

    @property
    def lengths(self) -> Int[Tensor, " document"]:
        """Tokens of each."""
        return self.starts.diff()

    def __len__(self) -> int:
        """How many."""
        return len(self.names)

    def some(self, numbers: Iterable[int]) -> "Documents":
        """Some of them, in this order.

        Example:
            >>> documents = Documents(torch.arange(5), torch.tensor([0, 2, 5]), torch.tensor([7, 9]), ("a", "b"))
            >>> documents.some([1]).tokens, documents.some([1]).starts, documents.some([1]).names
            (tensor([2, 3, 4]), tensor([0, 3]), ('b',))
        """
        numbers = list(numbers)
        parts = [self.tokens[self.starts[number] : self.starts[number + 1]] for number in numbers]
        starts = torch.tensor([0, *map(len, parts)]).cumsum(0)
        tokens = torch.cat([self.tokens[:0], *parts])
        return Documents(tokens, starts, self.num_bytes[numbers], tuple(self.names[number] for number in numbers))


@dataclass(frozen=True)
class TokenFile:
    """All tokens of a corpus, its vocabulary, and where it comes from.

    Args:
        splits: documents of each split.
        vocabulary: the tokenizer, as JSON.
        about: name, hash, sources and counts.
    """

    splits: dict[Split, Documents]
    vocabulary: str
    about: dict[str, Any]

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, of the package `tokenizers`.

        Raises:
            ValueError: if that is not installed.
        """
        require_package("tokenizers")
        return import_module("tokenizers").Tokenizer.from_str(self.vocabulary)

    @property
    def document_token(self) -> int:
        """What is read before a document's first token: the last of the vocabulary, which no text has."""
        return self.about["vocab_size"] - 1

    @property
    def vocab_size(self) -> int:
        """How many tokens a model must know."""
        return self.about["vocab_size"]

    def texts(self, tokens: Int[Tensor, " token"]) -> list[str]:
        """Each token as text; bytes that are no whole character are signs for one.

        Args:
            tokens: numbers of tokens.
        """
        return [self.tokenizer.decode([token], skip_special_tokens=False) for token in tokens.tolist()]


def learn_vocabulary(texts: Iterable[str], vocab_size: int) -> str:
    """A byte-level BPE, as JSON: any text can be written in it, and back without a loss.

    Args:
        texts: to learn from.
        vocab_size: tokens at most, among them the 256 bytes and the one that begins a document.

    Raises:
        ValueError: if `tokenizers` is not installed or the vocabulary is too small or too large.
    """
    require(257 <= vocab_size <= 2**16, f"vocab_size must be from 257 to {2**16}, got {vocab_size}")
    require_package("tokenizers")
    tokenizers = import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def _learning_texts(corpus: Corpus) -> Iterator[str]:
    """Pieces of the training documents, from all over the corpus, up to a number of characters."""
    train = [document.text for document in corpus.documents if document.split == "train"]
    step = max(1, -(-sum(map(len, train)) // LEARNING_CHARACTERS))
    for text in train[::step]:
        yield from pieces(text, PIECE_CHARACTERS)


def encode(corpus: Corpus, vocabulary: str) -> TokenFile:
    """A corpus in tokens.

    Args:
        corpus: the documents.
        vocabulary: of `learn_vocabulary`, or another one whose last token is the only special one, as GPT-2's: that
            token begins a document then.

    Raises:
        ValueError: if the vocabulary is another kind.
    """
    require_package("tokenizers")
    tokenizer = import_module("tokenizers").Tokenizer.from_str(vocabulary)
    tokenizer.encode_special_tokens = True  # a text that names such a token has its letters, and not the token
    special = [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    document_token = max(special, default=tokenizer.get_vocab_size())
    require(document_token >= tokenizer.get_vocab_size() - 1, "the vocabulary's special token must be its last one")
    splits = {}
    for split in SPLITS:
        documents = [document for document in corpus.documents if document.split == split]
        parts = [
            np.concatenate(
                [
                    np.array(encoding.ids, dtype=np.int32)
                    for encoding in tokenizer.encode_batch_fast(list(pieces(document.text, PIECE_CHARACTERS)))
                ]
            )
            for document in documents
        ]
        splits[split] = Documents(
            tokens=torch.from_numpy(np.concatenate(parts)),
            starts=torch.tensor([0, *map(len, parts)]).cumsum(0),
            num_bytes=torch.tensor([len(document.text.encode()) for document in documents]),
            names=tuple(document.name for document in documents),
        )
    about = {
        "corpus": corpus.name,
        "hash": corpus.hash,
        "sources": corpus.sources,
        "left_out": corpus.left_out,
        "vocab_size": document_token + 1,
    }
    return TokenFile(splits, vocabulary, about)


def save_tokens(path: Path, tokens: TokenFile) -> None:
    """Write all tokens and the vocabulary to one file, whole or not at all.

    Args:
        path: the file.
        tokens: what to write.
    """
    arrays = {}
    for split, documents in tokens.splits.items():
        arrays[f"{split}.tokens"] = documents.tokens.numpy().astype(np.uint16)
        arrays[f"{split}.starts"] = documents.starts.numpy()
        arrays[f"{split}.num_bytes"] = documents.num_bytes.numpy()
    names = {split: documents.names for split, documents in tokens.splits.items()}
    header = {"format": FORMAT, "vocabulary": tokens.vocabulary}
    header |= {"about": json.dumps(tokens.about), "names": json.dumps(names)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two programs may prepare the same corpus
    save_file(arrays, temporary, header)
    os.replace(temporary, path)


def load_tokens(path: Path) -> TokenFile:
    """Read a file of tokens.

    Args:
        path: the file.

    Raises:
        ValueError: if there is none, or it is cut off, or holds something else.
    """
    path = Path(path)
    require(path.is_file(), f"there are no tokens at {path}: make them with `infmem language prepare --output {path}`")
    try:
        with safe_open(path, framework="np") as file:
            header, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
        require(header.get("format") == FORMAT, "another kind of file")
        about, names = json.loads(header["about"]), json.loads(header["names"])
        splits = {split: _documents(arrays, split, names[split], about["vocab_size"]) for split in SPLITS}
        return TokenFile(splits, header["vocabulary"], about)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a whole file of tokens ({error}): delete it and run `infmem language prepare` again"
        ) from error


def _documents(arrays: dict[str, np.ndarray], split: Split, names: list[str], vocab_size: int) -> Documents:
    tokens, starts, num_bytes = (arrays[f"{split}.{part}"] for part in ("tokens", "starts", "num_bytes"))
    fits = len(starts) == len(num_bytes) + 1 == len(names) + 1 and (starts[0], starts[-1]) == (0, len(tokens))
    require(fits and bool((np.diff(starts) > 0).all()), f"its documents for {split} do not fit its tokens")
    require(int(tokens.max()) < vocab_size - 1, f"its tokens for {split} are not of its vocabulary")
    return Documents(
        torch.from_numpy(tokens.astype(np.int32)), torch.from_numpy(starts), torch.from_numpy(num_bytes), tuple(names)
    )


def cache_folder() -> Path:
    """Where tokens are kept if no file is named: INFMEM_CACHE, or infmem in the user's cache folder."""
    chosen, base = os.environ.get("INFMEM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) if chosen else Path(base or Path.home() / ".cache") / "infmem"


def prepare_tokens(
    corpus: CorpusName = "stdlib",
    data: Path | None = None,
    *,
    vocab_size: int = 4096,
    most_documents: int | None = None,
    output: Path | None = None,
    vocabulary: str | None = None,
) -> TokenFile:
    """The tokens of a corpus: from the cache if they are there, else made and put there.

    The vocabulary is kept as soon as it is learned, so what was interrupted goes on from there.

    Args:
        corpus: which one; not used with `data`.
        data: a folder with a document per file, or one file.
        vocab_size: tokens of the vocabulary.
        most_documents: for training; None takes all.
        output: a file of its own, beside that in the cache.
        vocabulary: of a pretrained model; None learns one.
    """
    read = read_corpus(corpus, data, most_documents=most_documents)
    kind = vocab_size if vocabulary is None else hashlib.blake2b(vocabulary.encode(), digest_size=4).hexdigest()
    path = cache_folder() / f"{read.name}-{read.hash}-{kind}.safetensors"
    vocabulary_path = path.with_suffix(".vocabulary.json")
    if path.exists():
        tokens = load_tokens(path)
    else:
        if not vocabulary_path.exists():
            write_text(vocabulary_path, vocabulary or learn_vocabulary(_learning_texts(read), vocab_size))
        tokens = encode(read, vocabulary_path.read_text(encoding="utf-8"))
        save_tokens(path, tokens)
    if output is not None:
        save_tokens(output, tokens)
    return tokens
