"""Recorded experiments on language, from files that the test writes."""

import math

import pytest

from infmem.language.experiment import COMPARED_FIELDS, FIELDS, POSITION_FIELDS
from infmem.language.results import (
    Score,
    memory_words,
    ratio_words,
    read_results,
    results_table,
    results_words,
)
from infmem.tables import write_table

SHARED = {"size": "gpu", "optimizer": "adam", "steps": "8000", "split": "test", "corpus_hash": "abc"}
PPL = {  # by model and memory, one number for each seed
    ("transformer-xl", "on"): (20.0, 22.0),
    ("infinite-former", "on"): (19.0, 20.0),
    ("infinite-former", "off"): (23.0, 24.0),
    ("infinite-former", "shuffled"): (25.0, 28.0),
    ("window", "on"): (30.0, 31.0),
}


def rows(name="language", **changes):
    found = []
    for (model, memory), values in PPL.items():
        for seed, ppl in enumerate(values):
            key = {"model": model, "memory": memory, "seed": seed, "learning_rate": "0.001"} | SHARED
            numbers = {"ppl": ppl, "ppl_low": ppl - 1, "ppl_high": ppl + 2, "parameters": 1_234_567, "documents": 71}
            ratio = ppl / PPL[model, "on"][seed]
            numbers |= {"ratio_to_on": ratio, "ratio_low": ratio - 0.1, "ratio_high": ratio + 0.1}
            about = {"corpus": "environment", "sources": "python 3.11", "device": "a GPU", "torch": "2.11.0+cu1"}
            found.append(dict.fromkeys(FIELDS, "") | key | numbers | about | changes)
    return found


def write(folder, name="language", more=()):
    write_table(folder / f"{name}.csv", FIELDS, [*rows(), *more])
    ranges = []
    for row in rows():
        for start, end in ((0, 64), (64, 0)):
            ppl = row["ppl"] + start / 10
            numbers = {"start": start, "end": end, "num_documents": 5, "num_tokens": 99, "ppl": ppl}
            kept = {column: row[column] for column in POSITION_FIELDS if column in row}
            ranges.append(kept | numbers | {"low": ppl - 3, "high": ppl + 4})
    write_table(folder / f"{name}_positions.csv", POSITION_FIELDS, [{n: r[n] for n in POSITION_FIELDS} for r in ranges])
    compared = [("infinite-former", 0.93, 0.9, 0.96), ("window", 1.01, 0.99, 1.4)]
    about = {"baseline": "transformer-xl", "size": "gpu", "seeds": 2, "corpus_hash": "abc"}
    lines = [
        about | {"model": model, "ratio": ratio, "ratio_low": low, "ratio_high": high}
        for model, ratio, low, high in compared
    ]
    write_table(folder / f"{name}_compared.csv", COMPARED_FIELDS, lines)


def test_scores_are_means_over_seeds_with_all_their_intervals(tmp_path):
    write(tmp_path)
    results = read_results(tmp_path)
    assert results and results.models == ("transformer-xl", "infinite-former", "window")
    assert results.scores["infinite-former", "shuffled"] == Score(26.5, 24.0, 30.0, 2)
    assert results.with_memory == ("infinite-former",) and results.baseline == "transformer-xl"
    assert results.ratios == {"infinite-former": Score(0.93, 0.9, 0.96, 2), "window": Score(1.01, 0.99, 1.4, 2)}
    assert list(results.curves()) == list(results.models) and list(results.curves("off")) == ["infinite-former"]
    first, last = results.curves()["transformer-xl"]
    assert first == {"start": 0, "end": 64, "ppl": 21.0, "low": 17.0, "high": 26.0}
    assert (last["start"], last["end"], round(last["ppl"], 6)) == (64, 0, 27.4)


def test_the_table_has_a_row_for_each_model(tmp_path):
    write(tmp_path)
    _, _, *lines = results_table(read_results(tmp_path)).splitlines()
    assert lines[0] == "| transformer-xl | 1,234,567 | 2 | 21.00 (19.00 to 24.00) | – | – | 1 |"
    assert lines[1].endswith("| 23.50 (22.00 to 26.00) | 26.50 (24.00 to 30.00) | 0.930 (0.900 to 0.960) |")
    assert len(lines) == 3


def test_words_say_no_more_than_the_intervals(tmp_path):
    write(tmp_path)
    results = read_results(tmp_path)
    better, same = ratio_words(results)
    assert better.endswith("times the perplexity of transformer-xl, better") and same.endswith("not to be told apart")
    off, shuffled = memory_words(results)
    mean, low, high = (23 / 19 + 24 / 20) / 2, 24 / 20 - 0.1, 23 / 19 + 0.1
    assert off == f"infinite-former, memory off: {mean:.3f} ({low:.3f} to {high:.3f}) times the perplexity of memory on"
    assert shuffled.startswith("infinite-former, memory shuffled: ")
    words = results_words(results)
    for part in ("3 models, 8,000 steps each (adam)", "71 whole test documents", "(python 3.11)", "PyTorch 2.11.0."):
        assert part in words


def test_nothing_recorded_is_told_in_a_sentence(tmp_path):
    for name, command in (("language", "experiment"), ("language_finetuned", "finetune")):
        results = read_results(tmp_path, name)
        assert not results and not results.curves() and not ratio_words(results) and not memory_words(results)
        assert results_table(results) == f"Not recorded yet: `infmem language {command}` does it."
        assert results_words(results) == ""


def test_what_was_not_trained_alike_is_not_mixed(tmp_path, without_type_checker):
    write(tmp_path, more=[row | {"size": "classroom"} for row in rows()])
    with pytest.raises(ValueError, match=r"these trainings differ in .*size='gpu'"):
        read_results(tmp_path)
    assert read_results(tmp_path, size="gpu").scores["window", "on"].seeds == 2
    assert not read_results(tmp_path, size="classroom").ratios
    with pytest.raises(ValueError, match="columns are experiment, model"):
        read_results(tmp_path, colour="red")
    with pytest.raises(ValueError, match="experiment must be one of language, language_finetuned, got 'sorting'"):
        read_results(tmp_path, "sorting")


def test_a_training_that_came_apart_has_no_number(tmp_path):
    bad = [row | {"model": "bad", "memory": "on", "seed": 7, "ppl": math.nan} for row in rows()[:1]]
    write(tmp_path, more=bad)
    assert "| came apart |" in results_table(read_results(tmp_path)).splitlines()[-1]
