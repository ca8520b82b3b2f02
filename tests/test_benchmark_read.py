import json

import pytest
import torch
from torch.testing import assert_close

from infmem import MemoryConfig, cli
from infmem.benchmark import benchmark_read, read
from infmem.cost import ReadSizes

CPU = torch.device("cpu")
SIZES = ReadSizes(batch=2, query_pos=5, num_heads=3, d_head=4, num_basis=7)
MEMORY = MemoryConfig.best(num_basis=7, sigmas=(0.1,), num_samples=13, own_query=False)


@pytest.fixture
def compiles_nothing(monkeypatch):
    """Compiled forms as they are: compiling takes seconds on a CPU."""
    monkeypatch.setattr(read, "compile_function", lambda function: function)


@pytest.mark.parametrize("interval", ["line", "unit"])
def test_every_form_and_pass_is_timed_and_gives_the_same(interval, compiles_nothing):
    memory = MemoryConfig.best(num_basis=7, sigmas=(0.1,), num_samples=13, own_query=False, interval=interval)
    rows = list(benchmark_read(CPU, SIZES, memory, calls=2))
    assert [(row["begins_with"], row["form"], row["pass"]) for row in rows] == [
        (begins, form, name)
        for begins, forms in [
            ("queries", ("textbook", "collapsed", "collapsed, compiled")),
            ("densities", ("written out", "compiled")),
        ]
        for name in ("forward", "forward and backward")
        for form in forms
    ]
    for row in rows:
        assert row["difference"] < 1e-4 and row["milliseconds"] > 0 and row["peak_mib"] >= 0
        assert 0 < row["floor_milliseconds"] < row["milliseconds"]


def test_nothing_is_compiled_if_it_need_not_be():
    forms = {row["form"] for row in benchmark_read(CPU, SIZES, MEMORY, calls=2, compiled=False)}
    assert forms == {"textbook", "collapsed", "written out"}


def test_a_wrong_form_is_told_by_its_difference(monkeypatch):
    right = read.read_queries

    def wrong(*inputs, textbook=False, **options):
        return right(*inputs, textbook=textbook, **options) * (1 if textbook else 1.1)

    monkeypatch.setattr(read, "read_queries", wrong)
    rows = list(benchmark_read(CPU, SIZES, MEMORY, calls=2, compiled=False))
    collapsed = [row["difference"] for row in rows if row["form"] == "collapsed"]
    assert collapsed[0] == pytest.approx(0.1, rel=1e-3) and collapsed[1] > 0.05


def test_the_timed_read_is_that_of_the_memory(normal):
    module = read.LongTermMemory(12, 3, MEMORY).double()
    query, state = normal(2, 5, 12), module.write(normal(2, 17, 12), module.empty(2))
    for textbook in (False, True):
        heads = read.read_queries(module, module.basis, query, state.coefficients, textbook=textbook)
        assert_close(module.out(heads), module.read(query, state)[0])


def test_gradients_are_those_of_the_sum_of_squares(normal):
    inputs = tuple(tensor.requires_grad_() for tensor in (normal(3), normal(3)))
    gradients = read.called(lambda a, b: a * b, inputs, "forward and backward")
    assert_close(gradients, torch.autograd.grad((inputs[0] * inputs[1]).square().sum() / 2, inputs))


def test_the_command_prints_a_table_and_writes_it(compiles_nothing, capsys, tmp_path):
    output = tmp_path / "new" / "read.json"
    sizes = ["--batch", "2", "--queries", "5", "--heads", "3", "--d-head", "4", "--num-basis", "8"]
    options = ["--calls", "2", "--device", "cpu", "--output", str(output)]
    assert cli.main(["bench", "read", *sizes, *options]) == 0
    printed = capsys.readouterr().out
    written = json.loads(output.read_text())
    assert set(written) == {"command", "device", "torch", "threads", "sizes", "memory", "rates", "rows"}
    assert written["sizes"] == {"batch": 2, "query_pos": 5, "num_heads": 3, "d_head": 4, "num_basis": 8}
    assert "Reads on the CPU" in printed and str(output) in printed
    for row in written["rows"]:
        assert f"{row['milliseconds']:.4f}" in printed and row["form"] in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("read", "--queries", "0"), "query_pos must be at least 1, got 0"),
        (("read", "--calls", "1"), "calls must be at least 2"),
        (("read", "--memory", "paper", "--num-basis", "7"), "multiple of the number of widths"),
        (("attention", "--contexts", "3"), "every context must hold the segment of 512 tokens itself, got 3 keys"),
        (("stream", "--tokens-seen", "3"), "tokens_seen must be whole segments of 128 at least"),
        (("stream", "--streamed", "100"), "streamed must be at least 896, got 100"),
        (("stream", "--batch", "0"), "batch must be at least 1, got 0"),
        (("stream", "--cache-gib", "-1"), "cache_bytes must be >= 0"),
        (("train", "--steps", "1"), "steps must be at least 2"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("infmem: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_compiling_is_refused_where_it_is_not_possible(monkeypatch, capsys):
    monkeypatch.setattr("infmem.fast.has_cpp_compiler", lambda: False)
    assert cli.main(["bench", "read", "--compile", "on", "--device", "cpu"]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err
