import math

import pytest
import torch
from tiny import TINY, recall_config, tiny_config

from infmem.evaluation import RecallEvaluation, SortingEvaluation, evaluate, free_run
from infmem.presets import build_model
from infmem.tasks import recall, sorting
from infmem.training import generator_for

MODELS = ["infinite-former", "compressive-transformer", "transformer-xl", "window"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("length", [1, 13, 14, 15, 23])
def test_free_running_reads_its_own_answers_across_segments(model, length):
    """Against a plain loop that starts again from the first token for every token that it gives."""
    built = build_model(tiny_config(model).model, seed=2).eval()
    symbols = sorting.sample(2, length, torch.Generator().manual_seed(3))[0][:, :length]
    tokens = torch.cat([symbols, torch.full((2, 1), sorting.SEPARATOR)], 1)
    with torch.no_grad():
        for _ in range(sorting.NUM_SYMBOLS):
            state = None
            for segment in tokens.split(TINY.segment_length, 1):
                logits, state = built(segment, state)
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    given = free_run(built, symbols, TINY.segment_length)
    assert torch.equal(given, tokens[:, length + 1 :])


def test_accuracy_and_interval_are_those_of_the_sequences(monkeypatch):
    scores = torch.tensor([0.1, 0.5, 0.6, 0.2, 0.9])
    taken = iter(scores.split(2))
    monkeypatch.setattr("infmem.evaluation.answer", lambda *_, **__: type("", (), {"accuracy": next(taken)}))
    built = build_model(tiny_config("window").model)
    result = evaluate(built, 5, TINY.segment_length, sequences=5, batch_size=2)
    assert result.accuracy == pytest.approx(0.46)
    assert result.ci95 == pytest.approx(1.96 * scores.std().item() / math.sqrt(5), rel=1e-5)
    assert result.sequences == 5


def test_evaluation_is_repeatable_and_depends_on_the_seed():
    built = build_model(tiny_config().model)
    first, again, other = (evaluate(built, 23, 7, sequences=20, seed=seed) for seed in (1, 1, 2))
    assert (first.accuracy, first.free_running) == (again.accuracy, again.free_running)
    assert (first.accuracy, first.ci95) != (other.accuracy, other.ci95)


def test_evaluation_leaves_the_model_as_it_was():
    built = build_model(tiny_config().model).train()
    weights = [parameter.clone() for parameter in built.parameters()]
    evaluate(built, 5, 7, sequences=2)
    assert built.training
    assert all(torch.equal(a, b) for a, b in zip(weights, built.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in built.parameters())


def test_dropout_is_off_while_evaluating():
    built = build_model(tiny_config().model).train()
    results = [evaluate(built, 23, 7, sequences=7).accuracy for _ in range(3)]
    assert len(set(results)) == 1


@pytest.mark.parametrize("model", MODELS)
def test_recall_is_scored_by_the_age_of_what_is_asked(model):
    """Against a plain loop over questions; the batches are drawn here once more."""
    config, segment_length = recall_config(model), 13
    built, length = build_model(config.model, seed=2).eval(), config.length
    result = evaluate(built, length, segment_length, task="recall", sequences=5, batch_size=3, seed=7)
    scores, by_age = [], {}
    for index, count in enumerate((3, 2)):
        tokens, targets = recall.sample(count, length, generator_for(torch.device("cpu"), 7, "evaluate", length, index))
        state, logits = None, []
        with torch.no_grad():
            for segment in tokens.split(segment_length, 1):
                piece, state = built(segment, state)
                logits.append(piece)
        right = torch.cat(logits, 1).argmax(-1) == targets
        for row, stated in enumerate(recall.stated_at(tokens).tolist()):
            places = [place for place in range(length) if targets[row, place] != sorting.IGNORE]
            scores.append(sum(right[row, place].item() for place in places) / len(places))
            ages = [place // segment_length - stated[place] // segment_length for place in places]
            for age in set(ages):
                mine = [right[row, place].item() for place, other in zip(places, ages, strict=True) if other == age]
                by_age.setdefault(age, []).append(sum(mine) / len(mine))
    assert isinstance(result, RecallEvaluation) and not isinstance(result, SortingEvaluation)
    assert result.accuracy == pytest.approx(sum(scores) / 5)
    assert [each.age for each in result.by_age] == sorted(age for age, mine in by_age.items() if len(mine) >= 2)
    for each in result.by_age:
        mine = torch.tensor(by_age[each.age], dtype=torch.float64)
        assert (each.accuracy, each.sequences) == (pytest.approx(mine.mean().item()), len(mine))
        assert each.ci95 == pytest.approx(1.96 * mine.std().item() / math.sqrt(len(mine)))


def test_too_few_sequences_are_refused():
    built = build_model(tiny_config("window").model)
    with pytest.raises(ValueError, match="sequences must be at least 2"):
        evaluate(built, 5, 7, sequences=1)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        evaluate(built, 5, 7, batch_size=0)
