import pytest
import torch
from tiny import tiny_tokens

from infmem.tasks import tokens
from infmem.tasks.documents import Document
from infmem.tasks.text import Corpus
from infmem.tasks.tokens import encode, learn_vocabulary, load_tokens, prepare_tokens, save_tokens

TEXTS = {
    "train": ["def first(x):\n    return x\n" * 9, "class Ünïcode:\n\tpass\n", "\ufffd broken \x01\x7f", "z" * 99],
    "validation": ["def second(y):\n    return y\n"],
    "test": ["<|document|> [UNK] <unk> </s>\n", "∞-former 🙂"],
}
CORPUS = Corpus(
    "mine",
    tuple(
        Document(f"{split}{number}", split, text) for split, texts in TEXTS.items() for number, text in enumerate(texts)
    ),
    {},
    {"python": "3"},
)


@pytest.fixture(scope="module")
def vocabulary() -> str:
    pytest.importorskip("tokenizers", reason="the tests of the vocabulary need the extra hf")
    return learn_vocabulary(TEXTS["train"], 300)


def test_every_text_comes_back_as_it_was(vocabulary, monkeypatch):
    monkeypatch.setattr(tokens, "PIECE_CHARACTERS", 31)  # so that documents have several pieces
    found = encode(CORPUS, vocabulary)
    for split, texts in TEXTS.items():
        documents = found.splits[split]
        for number, text in enumerate(texts):
            ids = documents.tokens[documents.starts[number] : documents.starts[number + 1]]
            assert found.tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text
            assert documents.num_bytes[number] == len(text.encode())
            assert ids.max() < found.document_token, "no text has the token that begins a document"
    assert found.vocab_size <= 300
    assert "".join(found.texts(found.splits["validation"].tokens)) == TEXTS["validation"][0]


def test_the_vocabulary_is_the_same_each_time(vocabulary):
    assert learn_vocabulary(TEXTS["train"], 300) == vocabulary


@pytest.mark.parametrize("vocab_size", [256, 2**16 + 1])
def test_a_vocabulary_that_is_too_small_or_too_large_is_refused(vocab_size):
    with pytest.raises(ValueError, match="vocab_size must be from 257 to 65536"):
        learn_vocabulary([], vocab_size)


def test_a_file_of_tokens_can_be_carried(tmp_path):
    wanted = tiny_tokens()
    save_tokens(tmp_path / "deep" / "tokens.safetensors", wanted)
    found = load_tokens(tmp_path / "deep" / "tokens.safetensors")
    assert (found.about, found.vocabulary) == (wanted.about, wanted.vocabulary)
    for split, documents in wanted.splits.items():
        assert found.splits[split].names == documents.names
        for name in ("tokens", "starts", "num_bytes"):
            assert torch.equal(getattr(found.splits[split], name), getattr(documents, name))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["tokens.safetensors"]


def test_damaged_files_are_one_sentence(tmp_path):
    path = tmp_path / "tokens.safetensors"
    with pytest.raises(ValueError, match="there are no tokens at"):
        load_tokens(path)
    save_tokens(path, tiny_tokens())
    whole = path.read_bytes()
    for damaged in (whole[:-7], b"", b"pickle", whole[:8]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a whole file of tokens"):
            load_tokens(path)
    few = tiny_tokens()
    few.about["vocab_size"] = 5
    save_tokens(path, few)
    with pytest.raises(ValueError, match="its tokens for train are not of its vocabulary"):
        load_tokens(path)


def test_tokens_are_prepared_once_and_what_was_interrupted_goes_on(vocabulary, tmp_path, monkeypatch):
    monkeypatch.setenv("INFMEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "read_corpus", lambda *_, **__: CORPUS)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_tokens(vocab_size=300)
    monkeypatch.setattr(tokens, "learn_vocabulary", interrupted)  # it is there already
    first = prepare_tokens(vocab_size=300, output=tmp_path / "mine.safetensors")
    monkeypatch.setattr(tokens, "encode", interrupted)
    again = prepare_tokens(vocab_size=300)
    assert torch.equal(first.splits["train"].tokens, again.splits["train"].tokens)
    assert load_tokens(tmp_path / "mine.safetensors").about == first.about
    assert first.about["hash"] == CORPUS.hash


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("infmem.tasks.documents.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"this needs the package tokenizers: pip install 'infmem\[hf\]'"):
        learn_vocabulary(["text"], 300)
