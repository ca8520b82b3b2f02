"""Every exercise tells what is right, what is wrong and why, in one sentence, and never raises."""

import importlib
import inspect
import pkgutil
import pydoc

import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from infmem import LongTermMemory, MemoryConfig, exercises
from infmem.basis import GaussianBasis
from infmem.exercises import ALL, GRADING_SEED, Exercise, WrongAnswer, check, solution, verdict
from infmem.signal import fit, read, ridge_operator
from infmem.sticky import sample_locations

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
    assert verdict(name, ALL[name].reference)[:2] == (True, "right")


@pytest.mark.parametrize("name, hint", MISTAKES)
def test_a_planted_mistake_is_told_by_its_own_hint(name, hint):
    for seed in (0, GRADING_SEED):
        passed, message, stage, cause = verdict(name, ALL[name].mistakes[hint], seed)
        assert passed is False and stage and cause == hint and message.endswith(f"; likely cause: {hint}")


@pytest.mark.parametrize("name", ALL)
def test_every_exercise_knows_at_least_three_mistakes(name):
    assert len(ALL[name].mistakes) >= 3


@pytest.mark.parametrize("name", ALL)
def test_the_library_s_name_of_an_exercise_is_there(name):
    assert ALL[name].library.startswith("infmem.") and pydoc.locate(ALL[name].library) is not None


@pytest.mark.parametrize("name", ALL)
def test_the_solution_of_an_exercise_shows_the_library_s_own(name):
    first, *code = solution(name).data.split("\n\n", 1)
    assert first == f"In the library: `{ALL[name].library}`." and code[0].startswith("```python\n")
    own = pydoc.locate(ALL[name].library)
    if inspect.isfunction(own):
        assert f"def {own.__name__}(" in code[0]


def test_references_that_are_no_function_of_the_library_do_the_same_as_the_one_they_name():
    basis = GaussianBasis.grid(6, (0.1, 0.2), dtype=torch.float64)
    t = torch.rand(5, dtype=torch.float64)
    x, coefficients = torch.randn(5, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    operator = ALL["ridge"].reference(basis.evaluate(t), 0.3)
    torch.testing.assert_close(operator, ridge_operator(basis, t, 0.3))
    torch.testing.assert_close(operator.mT @ x, fit(x[None], operator)[0])
    signal = ALL["signal_at"].reference(coefficients, basis.evaluate(t))
    torch.testing.assert_close(signal, read(coefficients[None], basis, t)[0])
    probabilities = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    drawn = torch.rand(1, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)[0]
    locations = ALL["locations"].reference(probabilities, ALL["strata"].reference(drawn))
    same = sample_locations(probabilities[None], 7, torch.Generator().manual_seed(5))[0]
    torch.testing.assert_close(locations, same)


def test_the_exercise_of_a_whole_read_is_the_memory_s_own():
    config = MemoryConfig.paper(num_basis=6, bias=False, interval="line")
    memory = LongTermMemory(d_model=4, num_heads=1, config=config).double()
    torch.nn.init.eye_(memory.out.weight)
    query, coefficients = torch.randn(2, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    state = memory.empty(1)._replace(coefficients=coefficients[None])
    asked = query if memory.query is None else memory.query(query)
    maps = (memory.key.weight, memory.value.weight, memory.to_mu.weight[0], memory.to_sigma_sq.weight[0])
    answer = ALL["read_memory"].reference(asked, coefficients, *maps, memory.basis.centers, memory.basis.sigmas)
    torch.testing.assert_close(memory.out(answer), memory.read(query[None], state)[0][0])


@pytest.mark.parametrize("name", ALL)
def test_what_was_not_begun_is_neither_right_nor_wrong(name):
    passed, message, *_ = verdict(name, stub)
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
    passed, message, *_ = verdict(next(iter(ALL)), None)
    assert passed is False and message.startswith("it stopped with TypeError: 'NoneType' object is not callable")


@pytest.mark.parametrize("name", ALL)
def test_nan_in_place_of_a_number_is_wrong(name):
    def spoiled(*arguments):
        answer = torch.as_tensor(ALL[name].reference(*arguments))
        if not answer.is_floating_point():
            return torch.full_like(answer, float("nan"), dtype=torch.float64)
        answer = answer.detach().clone()
        answer.view(-1)[-1] = float("nan")
        return answer

    passed, message, *_ = verdict(name, spoiled)
    assert passed is False and ("NaN" in message or "dtype must be torch.int64" in message)


@pytest.mark.parametrize("name", ALL)
def test_an_answer_that_would_only_broadcast_is_refused(name):
    def with_an_axis_more(*arguments):
        return torch.as_tensor(ALL[name].reference(*arguments))[None]

    passed, message, *_ = verdict(name, with_an_axis_more)
    assert passed is False and "shape" in message


def test_one_number_for_three_is_refused():
    exercise = Exercise(reference=lambda x: torch.ones(3), cases=lambda generator: [(torch.ones(3),)])
    assert exercise.examine(lambda x: torch.ones(1)) == (
        False,
        "the shape must be (3,), but is (1,) (called with x (3,))",
        "shape",
        None,
    )


@pytest.mark.parametrize(
    "attempt, sentence",
    [
        (lambda x, factor: None, "it gives nothing back: end it with `return`"),
        (lambda x, factor: [1.0], "it must give back a tensor, but gives a list"),
        (lambda x, factor: "x", "it must give back a tensor, but gives a str"),
        (lambda x, factor: x.T, "the shape must be (3, 2), but is (2, 3) (called with x (3, 2), factor = 5.0)"),
        (lambda x, factor: x / 0, "the shape is right, but there is NaN or infinity in it (called with x (3, 2), "),
        (
            lambda x, factor: x + 1,
            "the shape is right, but the values are not: at [0, 0] 4.963 was expected and 1.496 came (0 of ",
        ),
        (lambda x, factor: x + 0j, "it must give back numbers, but gives a Tensor (called with x (3, 2), "),
        (lambda x, factor: x @ x, "it stopped with RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (raises, "it stopped with KeyError: 'nowhere' (called with a tensor of shape (3, 2), 5.0)"),
        (lambda x, factor: x.mul_(2 * factor), "the answer is right, but it changes what it was given: work on a copy"),
        (lambda x, factor: (2 * factor * x).double(), "the dtype must be torch.float32, but is torch.float64 (called "),
        (lambda x, factor: exit(), "it stopped with SystemExit"),
    ],
)
def test_each_way_to_be_wrong_has_its_sentence(attempt, sentence):
    passed, message, *_ = TOY.examine(attempt)
    assert passed is False and message.startswith(sentence)


@pytest.mark.parametrize(
    "attempt, cause, stage",
    [
        (lambda x, factor: factor * x, "twice, not once", "value"),
        (lambda x, factor: (2 * factor * x).sum(1), "keep the columns apart", "shape"),
        (lambda x, factor: x + 1, None, "value"),
    ],
)
def test_a_known_mistake_is_named_after_what_was_expected_and_what_came(attempt, cause, stage):
    passed, message, found, named = TOY.examine(attempt)
    assert passed is False and (found, named) == (stage, cause)
    assert message.startswith("the shape ") and message.endswith(f"; likely cause: {cause}") is bool(cause)


SLOPED = Exercise(
    reference=lambda x, y: x * y.detach(),
    cases=lambda generator: [tuple(torch.rand(2, 3, generator=generator))],
    mistakes={"it trains y too": lambda x, y: x * y},
    gradients=True,
)


@pytest.mark.parametrize(
    "attempt, sentence",
    [
        (
            lambda x, y: x * y,
            "the value is right, but gradient must reach x only, and it also reaches y; likely cause: it ",
        ),
        (lambda x, y: (x * y).detach(), "the value is right, but gradient must reach x, and it reaches none (detach, "),
        (
            lambda *a: a[0].data * a[1],
            "the value is right, but gradient must reach argument 1, and it reaches argument 2",
        ),
        (
            lambda x, y: (x / 2 + x.detach() / 2) * y.detach(),
            "the value is right, but the gradient of x is not: at [0] ",
        ),
        (
            lambda x, y: torch.tensor((x * y).tolist()),
            "the value is right, but gradient must reach x, and it reaches none",
        ),
        (lambda x, y: 2 * x * y, "the shape is right, but the values are not"),
    ],
)
def test_gradient_must_reach_what_it_reaches_in_the_library(attempt, sentence):
    passed, message, stage, _ = SLOPED.examine(attempt)
    assert (
        passed is False and message.startswith(sentence) and stage == ("value" if "values" in sentence else "gradient")
    )
    assert SLOPED.examine(SLOPED.reference).passed


def test_a_single_number_is_told_as_a_number():
    assert verdict("sequences_needed", lambda spread, half_width: 65).message == (
        "the number is not right: 465 was expected and 65 came (called with spread = 0.11, half_width = 0.01)"
    )
    assert verdict("chance", lambda num_symbols: float("nan")).message.startswith("it is NaN or infinity (called ")


def test_an_endless_loop_is_stopped_and_told():
    def endless(x, factor):
        while True:
            try:
                while True:
                    pass
            except Exception:
                pass

    passed, message, *_ = TOY.examine(endless, seconds=0.05)
    assert passed is False and message.startswith(
        "it did not end within 0.05 seconds: is there an endless loop? (called"
    )


def test_check_by_name_raises_what_is_wrong_and_only_tells_what_was_not_attempted(capsys):
    check.ridge(stub)
    assert capsys.readouterr().out.startswith("Exercise ridge: not attempted yet")
    with pytest.raises(WrongAnswer, match=r"Exercise ridge: not attempted yet"):
        check.ridge(stub, graded=True)
    with pytest.raises(WrongAnswer, match=r"Exercise ridge: it stopped with KeyError") as error:
        check.ridge(raises)
    assert error.value._render_traceback_() == [f"WrongAnswer: {error.value}"]
    check.ridge(ALL["ridge"].reference, graded=True)
    assert capsys.readouterr().out == "Exercise ridge: right.\n"
    assert dir(check) == sorted(ALL)
    with pytest.raises(AttributeError, match=r"there is no exercise 'rigde'"):
        check.rigde  # noqa: B018


CELLS = {
    "begin": "import torch\nfrom infmem.exercises import check, set_up\nset_up()",
    "stub": "def stub(design, penalty):\n    raise NotImplementedError()\ncheck.ridge(stub)",
    "wrong": "check.ridge(lambda design, penalty: design.mT)",
    "leaves": "check.ridge(lambda design, penalty: exit())",
    "ends": "exit()",
    "afterwards": "print(6 * 7)",
}


@pytest.fixture(scope="module")
def told() -> dict[str, list]:
    """What a notebook shows that is graded."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in CELLS.values()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGRADER_EXECUTION", "autograde")
        patch.setenv("OMP_NUM_THREADS", "1")
        NotebookClient(notebook, kernel_name="python3", allow_errors=True, timeout=120).execute()
    return {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}


def test_a_notebook_shows_the_target_of_what_was_not_attempted(told):
    text, picture = told["stub"]
    assert text.text.startswith("Exercise ridge: not attempted yet") and "image/png" in picture.data


def test_a_notebook_shows_what_is_wrong_in_one_line(told):
    for name, words in [("wrong", "the shape must be (11, 5), but is (5, 11)"), ("leaves", "stopped with SystemExit")]:
        (error,) = told[name]
        assert error.ename == "WrongAnswer" and words in error.evalue
        assert error.traceback == [f"WrongAnswer: {error.evalue}"]


def test_a_notebook_that_is_graded_goes_on_after_exit(told):
    assert any(output.output_type == "error" and output.ename == "SystemExit" for output in told["ends"])
    assert told["afterwards"][0].text == "42\n"


def test_a_mistake_that_shows_only_in_the_second_case_is_found_there():
    assert TOY.examine(lambda x, factor: 10 * x).cause == "the factor is not 5"


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
