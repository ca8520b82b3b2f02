import dataclasses
import json

import pytest
import torch
from tiny import TINY

from infmem.demo import MODELS, demo_config, format_summary, run_demo
from infmem.run import Run, read_metrics

CPU = torch.device("cpu")


def test_both_models_get_the_same_training():
    one, two = (demo_config(model, TINY, seed=3) for model in MODELS)
    assert dataclasses.replace(one, model=two.model) == two
    assert two.model.memory_length == one.model.memory_length + one.model.memory.num_basis


def test_the_demonstration_leaves_summary_figure_and_runs(tmp_path):
    summary = run_demo(TINY, tmp_path, CPU, sequences=5)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert set(summary) == {*MODELS, "lines"}
    for model in MODELS:
        entry = summary[model]
        assert {"accuracy", "ci95", "steps", "seconds", "parameters", "state_bytes"} <= set(entry)
        assert 0 <= entry["accuracy"] <= 1 and entry["steps"] == TINY.steps and entry["seconds"] > 0
        assert len(read_metrics(tmp_path / model)) == TINY.steps
    assert set(summary["lines"]) == {"chance", "last_segment", "receptive_field", "exact_counts"}
    assert (tmp_path / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    table = format_summary(summary)
    assert f"{summary['transformer-xl']['accuracy']:.3f} ± {summary['transformer-xl']['ci95']:.3f}" in table
    assert "chance" in table


def test_a_second_demonstration_starts_anew(tmp_path):
    first = run_demo(TINY, tmp_path, CPU, sequences=5)
    second = run_demo(TINY, tmp_path, CPU, sequences=5)
    for model in MODELS:
        assert first[model]["accuracy"] == second[model]["accuracy"], "the same seed gives the same result"
        assert len(read_metrics(tmp_path / model)) == TINY.steps


def test_an_interrupted_demonstration_goes_on(tmp_path, monkeypatch):
    expected = run_demo(TINY, tmp_path / "whole", CPU, sequences=5)
    train_step = Run.train_step

    def stop(self):
        if self.config.model_name == "transformer-xl" and self.step == 4:
            raise KeyboardInterrupt
        return train_step(self)

    monkeypatch.setattr(Run, "train", _train_until_interrupt(Run.train, stop))
    assert run_demo(TINY, tmp_path / "parts", CPU, sequences=5) is None
    monkeypatch.undo()
    resumed = run_demo(TINY, tmp_path / "parts", CPU, sequences=5, resume=True)
    for model in MODELS:
        assert resumed[model]["accuracy"] == expected[model]["accuracy"]


def _train_until_interrupt(train, step):
    """A `Run.train` that stops, saved, before a step in which `step` raises."""

    def trained(self, **options):
        self.train_step = lambda: step(self)
        try:
            return train(self, **options)
        except KeyboardInterrupt:
            del self.train_step
            self.save()
            return False

    return trained


def test_demo_with_sizes_that_do_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="steps must be at least 1"):
        run_demo(dataclasses.replace(TINY, steps=0), tmp_path, CPU)


def test_a_demonstration_deletes_nothing_that_is_not_its_own(tmp_path):
    (tmp_path / "infinite-former").mkdir()
    thesis = tmp_path / "infinite-former" / "thesis.txt"
    thesis.write_text("the only copy")
    (tmp_path / "summary.json").write_text("of an earlier demonstration")
    run_demo(TINY, tmp_path, CPU, sequences=5)
    assert thesis.read_text() == "the only copy"
    assert "infinite-former" in json.loads((tmp_path / "summary.json").read_text())


def test_a_summary_of_an_earlier_demonstration_does_not_survive_an_interruption(tmp_path, monkeypatch):
    run_demo(TINY, tmp_path, CPU, sequences=5)
    monkeypatch.setattr(Run, "train", lambda self: False)
    assert run_demo(TINY, tmp_path, CPU, sequences=5) is None
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "learning_curves.png").exists()
