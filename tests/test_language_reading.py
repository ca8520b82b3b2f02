from itertools import islice

import pytest
import torch
from tiny import tiny_tokens

from infmem.language.reading import IDLE, Reader, cut, make_plan, shuffled_forever
from infmem.tasks.sorting import IGNORE

DOCUMENTS, DOCUMENT_TOKEN = tiny_tokens().splits["train"], 30


def text_of(number: int) -> list[int]:
    return DOCUMENTS.tokens[DOCUMENTS.starts[number] : DOCUMENTS.starts[number + 1]].tolist()


def test_every_row_reads_whole_documents_in_order_from_their_start():
    """Put together again from the batches, by row, they are the documents, token by token."""
    reader = Reader.training(DOCUMENTS, batch=3, steps=200, segment_length=7, document_token=DOCUMENT_TOKEN, seed=1)
    open_texts, taken = {}, []
    for step in range(len(reader)):
        batch = reader.batch(step)
        for row in range(3):
            asked = batch.targets[row] != IGNORE
            targets, read = batch.targets[row][asked].tolist(), batch.tokens[row][asked].tolist()
            if batch.begins[row]:
                if row in open_texts:
                    number, text = open_texts[row]
                    assert text == text_of(number), "the document before was read to its end"
                    taken.append(number)
                open_texts[row] = (batch.documents[row].item(), [])
                assert read[0] == DOCUMENT_TOKEN and batch.places[row] == 0
            number, text = open_texts[row]
            assert batch.documents[row] == number and batch.places[row] == len(text)
            assert read == [DOCUMENT_TOKEN, *text_of(number)][len(text) : len(text) + len(read)]
            text += targets
            assert asked.sum() == len(targets) > 0 and not (asked.diff() & asked[1:]).any(), "filled up at the end only"
    assert sorted(taken[: len(DOCUMENTS) - 3]) == sorted(set(taken[: len(DOCUMENTS) - 3])), "none twice before all once"


def test_each_document_is_read_once_and_all_of_it():
    reader = Reader.once(DOCUMENTS, batch=5, segment_length=7, document_token=DOCUMENT_TOKEN)
    asked = torch.zeros(len(DOCUMENTS), dtype=torch.int64)
    for step in range(len(reader)):
        batch = reader.batch(step)
        for row in range(5):
            count = (batch.targets[row] != IGNORE).sum()
            asked[batch.documents[row]] += count
            if reader.plan.is_again[step, row]:
                assert count == 0
                others = set(batch.documents.tolist()) - {batch.documents[row].item()}
                assert len(others) == 4, "no two rows read the same document"
        assert (batch.documents != IDLE).all(), "each row has the memory of a document"
    assert torch.equal(asked, DOCUMENTS.lengths)


def test_the_waste_is_the_share_of_positions_that_nothing_is_asked_at():
    for reader in (
        Reader.once(DOCUMENTS, batch=5, segment_length=7, document_token=DOCUMENT_TOKEN),
        Reader.training(DOCUMENTS, batch=3, steps=41, segment_length=5, document_token=DOCUMENT_TOKEN, seed=2),
    ):
        targets = torch.stack([reader.batch(step).targets for step in range(len(reader))])
        assert reader.waste == pytest.approx((targets == IGNORE).double().mean().item())


def test_the_order_follows_from_the_seed_and_not_from_the_number_of_steps():
    def tokens(steps: int, seed: int) -> torch.Tensor:
        options = {"batch": 3, "segment_length": 7, "document_token": DOCUMENT_TOKEN}
        reader = Reader.training(DOCUMENTS, steps=steps, seed=seed, **options)
        return torch.stack([reader.batch(step).tokens for step in range(11)])

    assert torch.equal(tokens(11, 0), tokens(97, 0))
    assert not torch.equal(tokens(11, 0), tokens(11, 1))
    orders = list(islice(shuffled_forever(29, 0), 58))
    assert sorted(orders[:29]) == sorted(orders[29:]) == list(range(29)) and orders[:29] != orders[29:]


def test_a_plan_without_documents_left_is_over():
    assert len(make_plan(torch.tensor([2, 1]), [0, 1], batch=3)) == 2
    assert len(make_plan(torch.tensor([2, 1]), [], batch=3, again=True)) == 0
    assert make_plan(torch.tensor([2, 1]), [0, 1], batch=3, again=True).documents.tolist() == [[0, 1, IDLE]] * 2
    assert make_plan(torch.tensor([2]), [0], batch=2, steps=4).documents.tolist() == [[0, IDLE], [0, IDLE]]


def test_documents_are_cut_without_a_token_or_a_byte_lost():
    parts = cut(DOCUMENTS, 11)
    assert int(parts.lengths.max()) <= 11 and int(parts.lengths.sum()) == len(DOCUMENTS.tokens)
    assert parts.num_bytes.sum() == DOCUMENTS.num_bytes.sum()
    assert len(cut(DOCUMENTS, 1000)) == len(DOCUMENTS)
    with pytest.raises(ValueError, match="most must be at least 1 token"):
        cut(DOCUMENTS, 0)
