"""Every exercise tells what is right, what is wrong and why, in one sentence, and never raises."""

import importlib
import pkgutil

import numpy as np
import pytest
import torch

from infmem import exercises
from infmem.exercises import ALL, Exercise, check, verdict

MISTAKES = [(name, hint) for name, exercise in ALL.items() for hint in exercise.mistakes]


def stub(*arguments):
    raise NotImplementedError


def double(x, factor):
    """The reference of a made-up exercise."""
    return 2 * factor * x


TOY = Exercise(
    reference=double,
    cases=lambda generator: [(torch.rand(3, 2, generator=generator), 5.0), (torch.ones(7, 2), 3.0)],
    mistakes={
        "twice, not once": lambda x, factor: factor * x,
        "keep the columns apart": lambda x, factor: (2 * factor * x).sum(1),
        "the factor is not 5": lambda x, factor: 2 * 5.0 * x,
    },
)


def test_every_exercise_can_be_reached_under_a_name_of_its_own():
    modules = [
        importlib.import_module(f"{exercises.__name__}.{found.name}")
        for found in pkgutil.iter_modules(exercises.__path__)
    ]
    names = [name for module in modules for name in getattr(module, "EXERCISES", {})]
    assert sorted(names) == sorted(ALL)  # sorted lists: of two exercises of one name only the last could be reached


@pytest.mark.parametrize("name", ALL)
def test_the_library_s_own_answer_is_right(name):
    assert verdict(name, ALL[name].reference) == (True, "right")


@pytest.mark.parametrize("name, hint", MISTAKES)
def test_a_planted_mistake_is_told_by_its_own_hint(name, hint):
    assert verdict(name, ALL[name].mistakes[hint]) == (False, hint)


@pytest.mark.parametrize("name", ALL)
def test_every_exercise_knows_at_least_two_mistakes(name):
    assert len(ALL[name].mistakes) >= 2


@pytest.mark.parametrize("name", ALL)
def test_what_was_not_begun_is_neither_right_nor_wrong(name):
    passed, message = verdict(name, stub)
    assert passed is None and "not attempted" in message


def raises(*arguments):
    raise KeyError("nowhere")


WRONG = {
    "nothing": lambda *arguments: None,
    "list": lambda *arguments: [],
    "word": lambda *arguments: "word",
    "array": lambda *arguments: np.zeros(3),
    "complex": lambda *arguments: torch.ones(3, dtype=torch.complex64),
    "nobody's shape": lambda *arguments: torch.zeros(97, 1, 101),
    "no number at all": lambda *arguments: object(),
    "empty": lambda *arguments: torch.zeros(0),
    "stopped": raises,
    "too few arguments": lambda: torch.zeros(3),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", ALL)
def test_whatever_is_given_back_is_told_in_one_line(name, wrong, capsys):
    assert verdict(name, wrong).passed is False
    check(name, wrong)
    printed = capsys.readouterr().out
    assert printed.startswith(f"Exercise {name}: ") and printed.endswith(".\n") and printed.count("\n") == 1


def test_what_is_no_function_at_all_is_told_too(without_type_checker):
    passed, message = verdict(next(iter(ALL)), None)
    assert passed is False and message.startswith("it stopped with TypeError: 'NoneType' object is not callable")


@pytest.mark.parametrize("name", ALL)
def test_nan_in_place_of_a_number_is_wrong(name):
    def spoiled(*arguments):
        answer = torch.as_tensor(ALL[name].reference(*arguments)).double().clone()
        answer.view(-1)[-1] = float("nan")
        return answer

    passed, message = verdict(name, spoiled)
    assert passed is False and "NaN" in message


@pytest.mark.parametrize("name", ALL)
def test_an_answer_that_would_only_broadcast_is_refused(name):
    def with_an_axis_more(*arguments):
        return torch.as_tensor(ALL[name].reference(*arguments))[None]

    passed, message = verdict(name, with_an_axis_more)
    assert passed is False and "shape" in message


def test_one_number_for_three_is_refused():
    exercise = Exercise(reference=lambda x: torch.ones(3), cases=lambda generator: [(torch.ones(3),)])
    assert exercise.examine(lambda x: torch.ones(1)) == (
        False,
        "the shape must be (3,), but is (1,) (called with a tensor of shape (3,))",
    )


@pytest.mark.parametrize(
    "attempt, sentence",
    [
        (lambda x, factor: None, "it gives nothing back: end it with `return`"),
        (lambda x, factor: [1.0], "it must give back a tensor, but gives a list"),
        (lambda x, factor: "x", "it must give back a tensor, but gives a str"),
        (lambda x, factor: x.T, "the shape must be (3, 2), but is (2, 3) (called with a tensor of shape (3, 2), 5.0)"),
        (lambda x, factor: x / 0, "the shape is right, but there is NaN or infinity in it (called with a tensor of "),
        (lambda x, factor: x + 1, "the shape is right, but the values are not (called with a tensor of shape (3, 2), "),
        (lambda x, factor: x + 0j, "it must give back numbers, but gives a Tensor (called with a tensor of shape "),
        (lambda x, factor: x @ x, "it stopped with RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (raises, "it stopped with KeyError: 'nowhere' (called with a tensor of shape (3, 2), 5.0)"),
        (lambda x, factor: x.mul_(2 * factor), "the answer is right, but it changes what it was given: work on a copy"),
        (lambda x, factor: factor * x, "twice, not once"),
        (lambda x, factor: (2 * factor * x).sum(1), "keep the columns apart"),  # its shape is wrong too
    ],
)
def test_each_way_to_be_wrong_has_its_sentence(attempt, sentence):
    passed, message = TOY.examine(attempt)
    assert passed is False and message.startswith(sentence)


def test_a_mistake_that_shows_only_in_the_second_case_is_found_there():
    assert TOY.examine(lambda x, factor: 10 * x) == (False, "the factor is not 5")


def test_an_attempt_that_writes_into_its_arguments_does_not_spoil_the_next_case():
    kept = torch.ones(3)
    exercise = Exercise(reference=lambda x: x + 1, cases=lambda generator: [(kept,), (kept,)])
    assert exercise.examine(lambda x: x.add_(1)).passed is False
    assert kept.tolist() == [1.0, 1.0, 1.0]


def test_a_list_that_was_written_into_is_noticed_too():
    exercise = Exercise(
        reference=lambda numbers: float(sum(numbers)), cases=lambda generator: [([1.0, 2.0],), ([5.0],)]
    )
    assert exercise.examine(sum).passed
    assert "changes what it was given" in exercise.examine(lambda numbers: numbers.pop() + sum(numbers)).message


def test_rounding_is_no_mistake_and_a_gradient_is_none_either():
    assert TOY.examine(lambda x, factor: (2 * factor * x).half().float()).passed is False  # 5e-4 of the largest
    assert TOY.examine(lambda x, factor: (2 * factor * x) * (1 + 1e-6)).passed
    assert TOY.examine(lambda x, factor: (2 * factor * x).requires_grad_()).passed


def test_an_error_of_several_lines_is_told_in_one():
    def long_winded(x, factor):
        raise RuntimeError("first\n  second\n\nthird")

    assert "RuntimeError: first second third (called" in TOY.examine(long_winded).message


def test_an_exercise_that_does_not_exist_is_refused_with_the_names_of_those_that_do():
    with pytest.raises(ValueError, match=r"there is no exercise 'rigde': choose from .*ridge"):
        check("rigde", stub)


def test_check_says_that_an_answer_is_right(capsys):
    name = next(iter(ALL))
    exercises.check(name, ALL[name].reference)
    assert capsys.readouterr().out == f"Exercise {name}: right.\n"
