import dataclasses
import os
import signal

import pytest
import torch
from tiny import recall_config, tiny_config

from infmem.checkpoint import load_checkpoint
from infmem.run import METRICS, Run, default_folder, load_run, read_metrics
from infmem.tasks import TASKS
from infmem.training import generator_for

MODELS = ["infinite-former", "compressive-transformer", "transformer-xl", "window"]


def interrupt_at(run: Run, step: int) -> None:
    """Press Ctrl-C in the middle of a step."""
    train_step = run.train_step

    def pressed():
        if run.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step()

    run.train_step = pressed


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_an_interrupted_run_goes_on_bit_for_bit(model, tmp_path):
    config = tiny_config(model)
    whole = Run(config, tmp_path / "whole")
    assert whole.train(save_every=5, log_every=3)
    first = Run(config, tmp_path / "parts")
    interrupt_at(first, 6)
    assert not first.train(save_every=5, log_every=3)
    assert first.step == 7, "the step in which Ctrl-C came is finished"
    second = Run(config, tmp_path / "parts", resume=True)
    assert second.step == 7
    assert second.train(save_every=5, log_every=3)
    assert same_weights(whole.model, second.model)
    rows, expected = read_metrics(tmp_path / "parts"), read_metrics(tmp_path / "whole")
    assert [row["step"] for row in rows] == list(range(1, config.steps + 1))
    for row, other in zip(rows, expected, strict=True):
        assert {name: row[name] for name in METRICS[:-1]} == {name: other[name] for name in METRICS[:-1]}


def test_a_run_begins_with_the_weights_of_another(tmp_path):
    first = Run(tiny_config(steps=2), tmp_path / "short")
    first.train()
    start = load_checkpoint(tmp_path / "short" / "checkpoint.safetensors")
    longer = Run(tiny_config(length=37), tmp_path / "long", start=start)
    assert longer.step == 0 and same_weights(longer.model, first.model)
    assert not same_weights(longer.model, Run(tiny_config(length=37), None).model)
    longer.train_step()
    longer.save()
    again = Run(tiny_config(length=37), tmp_path / "long", resume=True)
    assert again.step == 1 and same_weights(again.model, longer.model)
    with pytest.raises(ValueError, match="the checkpoint's weights"):
        Run(tiny_config("window"), None, start=start)


def sticky_config():
    config = tiny_config(steps=6)
    memory = dataclasses.replace(config.model.memory, contraction="sampled", sticky="stratified", num_bins=7)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, memory=memory))


def sticky_recall_config():
    sticky = {"contraction": "sampled", "sticky": "iid", "placement": "even", "num_bins": 7}
    return recall_config(memory_options=sticky, steps=6)


@pytest.mark.parametrize(
    "make",
    [sticky_config, sticky_recall_config, lambda: tiny_config(optimizer="muon", steps=6)],
    ids=["sticky", "sticky recall", "muon"],
)
def test_sticky_memories_recall_and_muon_go_on_bit_for_bit(make, tmp_path):
    config = make()
    whole, first = Run(config, None), Run(config, tmp_path)
    assert whole.train()
    interrupt_at(first, 2)
    assert not first.train()
    second = Run(config, tmp_path, resume=True)
    assert second.train()
    assert same_weights(whole.model, second.model)


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
    config = tiny_config(steps=5)
    run = Run(config, tmp_path)
    run.train()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("6,0.1,0.2,0.3,0.4,0.5\n7,0.1,0.")  # what a crash between rows and checkpoint could leave
    Run(config, tmp_path, resume=True)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]


def test_training_lowers_the_loss():
    """A short training on short sequences, so that a step that moves in the wrong direction is seen."""
    run = Run(tiny_config("transformer-xl", steps=120, batch_size=16, learning_rate=0.01, length=2), None)
    run.train()
    losses = [row["loss"] for row in run.rows]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_training_leaves_pytorchs_randomness_and_signals_alone():
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGINT)
    Run(tiny_config(steps=2), None).train()
    assert torch.equal(torch.get_rng_state(), before)
    assert signal.getsignal(signal.SIGINT) is handler


def test_seeds_change_weights_and_data():
    one, two = Run(tiny_config(seed=1), None), Run(tiny_config(seed=2), None)
    assert not same_weights(one.model, two.model)
    draws = [torch.rand(5, generator=generator_for(torch.device("cpu"), seed, "train", 0)) for seed in (1, 2)]
    assert not torch.equal(*draws)


def test_two_models_see_the_same_data():
    one, two = (Run(tiny_config(model, steps=1), None) for model in ("infinite-former", "transformer-xl"))
    seen = []
    for run in (one, two):
        run.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        run.train_step()
    half = len(seen) // 2
    assert half > 0
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run = Run(tiny_config(steps=2), tmp_path)
    run.train()
    content = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(ValueError, match="holds a run already"):
        Run(tiny_config(steps=2), tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == content


def test_resuming_needs_the_same_options(tmp_path):
    Run(tiny_config(steps=2), tmp_path).train()
    with pytest.raises(ValueError, match=r"trained with other options: steps \(2 there, 3 here\)"):
        Run(tiny_config(steps=3), tmp_path, resume=True)


def test_resuming_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        Run(tiny_config(), tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume needs the folder"):
        Run(tiny_config(), None, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    run = Run(tiny_config(steps=5), tmp_path)
    run.train_step()
    run.save()
    content = (tmp_path / "checkpoint.safetensors").read_bytes()
    with torch.no_grad():
        run.model.output.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the loss is nan at step 2: try a smaller --learning-rate"):
        run.train(log_every=1, save_every=1)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == content


def test_a_finished_run_can_be_loaded(tmp_path):
    run = Run(tiny_config(steps=2), tmp_path)
    run.train()
    model, config = load_run(tmp_path)
    assert config == run.config
    assert same_weights(model, run.model)


def test_metrics_of_no_run_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there are no metrics"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.csv").write_text(",".join(METRICS) + "\n1,a,b,c,d,e\n")
    with pytest.raises(ValueError, match="damaged"):
        read_metrics(tmp_path)


def test_tasks_have_folders_of_their_own():
    folders = {task: default_folder("window", "small", 500, 3, task) for task in TASKS}
    assert len(set(folders.values())) == len(TASKS)
    assert folders["sorting"] == default_folder("window", "small", 500, 3)


def test_a_run_that_died_at_once_can_be_gone_on_with(tmp_path):
    expected = Run(tiny_config(steps=3), None)
    expected.train()
    Run(tiny_config(steps=3), tmp_path)  # and the machine went down
    run = Run(tiny_config(steps=3), tmp_path, resume=True)
    assert run.step == 0 and run.train()
    assert same_weights(run.model, expected.model)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file, but a run needs a folder"):
        Run(tiny_config(), tmp_path / "file")


def test_metrics_of_another_kind_are_refused_before_anything_is_written(tmp_path):
    Run(tiny_config(steps=2), tmp_path).train()
    (tmp_path / "metrics.csv").write_text("something,else\n1,2\n")
    with pytest.raises(ValueError, match="must begin with the line step,loss"):
        Run(tiny_config(steps=2), tmp_path, resume=True)
    assert (tmp_path / "metrics.csv").read_text() == "something,else\n1,2\n"
