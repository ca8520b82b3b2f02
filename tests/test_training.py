import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from tiny import TINY, recall_config, tiny_config
from torch.nn import functional
from torch.testing import assert_close

from infmem.presets import build_model
from infmem.tasks import recall, sorting
from infmem.training import TrainingConfig, answer, autocast, derive_seed, generator_for, learning_rate

MODELS = ["infinite-former", "compressive-transformer", "transformer-xl", "window"]


def batch_and_model(model: str, **changes):
    config = tiny_config(model, **changes)
    built = build_model(config.model, seed=5).eval()
    tokens, targets = sorting.sample(3, config.length, torch.Generator().manual_seed(7))
    return config, built, tokens, targets


@pytest.mark.parametrize("model", MODELS)
def test_the_loss_is_that_of_a_plain_loop_over_segments(model):
    config, built, tokens, targets = batch_and_model(model)
    state, total, right, count, auxiliary = None, 0.0, 0.0, 0, []
    pieces = zip(tokens.split(config.segment_length, 1), targets.split(config.segment_length, 1), strict=True)
    for segment, asked in pieces:
        logits, state = built(segment, state)
        for row in range(len(segment)):
            for place in range(segment.shape[1]):
                if asked[row, place] != sorting.IGNORE:
                    total = total - functional.log_softmax(logits[row, place], -1)[asked[row, place]]
                    right += float(logits[row, place].argmax() == asked[row, place])
                    count += 1
        if (asked != sorting.IGNORE).any():
            auxiliary.append(state.auxiliary_loss)
    result = answer(built, tokens, targets, config.segment_length, config.length)
    assert count == 3 * sorting.NUM_SYMBOLS
    assert_close(result.loss, total / count + sum(auxiliary) / len(auxiliary), rtol=1e-5, atol=1e-5)
    assert result.accuracy.mean().item() == pytest.approx(right / count)


def test_the_auxiliary_loss_is_part_of_the_loss():
    config, built, tokens, targets = batch_and_model("infinite-former")
    heavy = dataclasses.replace(config.model, memory=dataclasses.replace(config.model.memory, kl_weight=1.0))
    weighted = build_model(heavy, seed=5).eval()
    arguments = (tokens, targets, config.segment_length, config.length)
    assert answer(weighted, *arguments).loss > answer(built, *arguments).loss + 0.1


@pytest.mark.parametrize("model", ["infinite-former", "transformer-xl"])
def test_gradient_reaches_as_many_segments_as_asked(model):
    """The embedding of a token that stands in one early segment alone has a gradient only if that is reached."""
    config, built, tokens, targets = batch_and_model(model)
    rare, answer_segment = sorting.PADDING, config.length // config.segment_length
    tokens = tokens.clone()
    tokens[:, (answer_segment - 1) * config.segment_length] = rare  # in the segment before the one that answers
    for grad_segments, reached in [(1, False), (2, True)]:
        built.zero_grad()
        answer(built, tokens, targets, config.segment_length, config.length, grad_segments).loss.backward()
        assert bool(built.embedding.weight.grad[rare].abs().sum() > 0) is reached


@pytest.mark.parametrize("model", MODELS)
def test_recall_is_scored_at_every_question_of_every_segment(model):
    config = recall_config(model)
    built = build_model(config.model, seed=5).eval()
    tokens, targets = recall.sample(3, config.length, torch.Generator().manual_seed(7))
    result = answer(built, tokens, targets, config.segment_length, recall.first_answer(config.length))
    state, total, right, auxiliary = None, 0.0, torch.zeros(3), []
    asked = targets != sorting.IGNORE
    for start in range(0, config.length, config.segment_length):
        logits, state = built(tokens[:, start : start + config.segment_length], state)
        for row, place in asked[:, start : start + config.segment_length].nonzero().tolist():
            target = targets[row, start + place]
            total = total - functional.log_softmax(logits[row, place], -1)[target]
            right[row] += float(logits[row, place].argmax() == target)
        auxiliary.append(state.auxiliary_loss)
    assert_close(result.loss, total / asked.sum() + sum(auxiliary) / len(auxiliary), rtol=1e-5, atol=1e-5)
    assert_close(result.accuracy, right / asked.sum(-1))


@pytest.mark.parametrize(("grad_segments", "reached"), [(1, False), (2, True)])
def test_gradient_of_recall_goes_between_all_segments_or_none(grad_segments, reached):
    """A token of the first segment alone, where nothing is asked: only later segments could send it a gradient."""
    config = recall_config()
    built = build_model(config.model, seed=5).eval()
    tokens, targets = recall.sample(3, config.length, torch.Generator().manual_seed(7))
    rare = recall.FIRST_NOISE
    tokens[tokens == rare] = rare + 1
    tokens[:, 0], targets[:, : config.segment_length] = rare, sorting.IGNORE
    start = recall.first_answer(config.length)
    answer(built, tokens, targets, config.segment_length, start, grad_segments).loss.backward()
    assert bool(built.embedding.weight.grad[rare].abs().sum() > 0) is reached


def test_all_grad_segments_give_the_same_loss():
    config, built, tokens, targets = batch_and_model("infinite-former")
    losses = [
        answer(built, tokens, targets, config.segment_length, config.length, grad_segments).loss
        for grad_segments in (1, 2, 3, 11)
    ]
    for loss in losses[1:]:
        assert_close(loss, losses[0], rtol=1e-5, atol=1e-5)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine():
    config = tiny_config(steps=103, warmup_steps=3, learning_rate=2.0, final_share=0.1)
    rates = [learning_rate(step, config) for step in range(104)]
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert rates[53] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[28] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))))
    assert rates[103] == pytest.approx(0.2)
    assert all(before >= after for before, after in pairwise(rates[3:]))


def test_seeds_differ_by_purpose_and_are_stable():
    seeds = {
        derive_seed(seed, purpose, step) for seed in (0, 1) for purpose in ("train", "evaluate") for step in range(5)
    }
    assert len(seeds) == 20
    assert derive_seed(0, "train", 3) == derive_seed(0, "train", 3)
    one, two = (torch.rand(3, generator=generator_for(torch.device("cpu"), 0, "train", 1)) for _ in range(2))
    assert torch.equal(one, two)


def test_autocast_follows_precision_and_device():
    x = torch.ones(2, 2)
    for precision, dtype in [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]:
        with autocast(torch.device("cpu"), precision):
            assert (x @ x).dtype == dtype


def test_bfloat16_gives_nearly_the_same_loss():
    config, built, tokens, targets = batch_and_model("infinite-former")
    arguments = (built, tokens, targets, config.segment_length, config.length)
    exact = answer(*arguments).loss
    with autocast(torch.device("cpu"), "bfloat16"):
        rough = answer(*arguments).loss
    assert rough.dtype == torch.float32
    assert_close(rough, exact, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"segment_length": 0}, "segment_length must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"grad_segments": 0}, "grad_segments must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"warmup_steps": -1}, "warmup_steps must be >= 0"),
        ({"final_share": 1.5}, "final_share must be in"),
        ({"clip_norm": 0.0}, "clip_norm must be > 0"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"model": dataclasses.replace(TINY.sizes, vocab_size=21)}, "vocab_size must be at least 22"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny_config(), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": recall.SHORTEST - 1}, f"length must be at least {recall.SHORTEST} for the recall task, got"),
        ({"model": TINY.sizes}, f"vocab_size must be at least {recall.VOCAB_SIZE} for the recall task, got 22"),
        ({"task": "poetry"}, "task must be one of sorting, recall, got 'poetry'"),
    ],
)
def test_what_does_not_fit_the_task_is_named(change, message, without_type_checker):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(recall_config(), **change)


def test_the_model_is_named():
    assert [tiny_config(model).model_name for model in MODELS] == MODELS
    assert TrainingConfig.__dataclass_fields__["grad_segments"].default == 1
