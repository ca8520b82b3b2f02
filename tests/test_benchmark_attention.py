import json
import re

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from infmem import LongTermMemory, MemoryConfig, cli
from infmem.benchmark import attention, benchmark_attention, crossover
from infmem.cost import ReadSizes

CPU = torch.device("cpu")
SIZES = ReadSizes(batch=2, query_pos=5, num_heads=3, d_head=11, num_basis=7)
MEMORY = MemoryConfig.best(num_basis=7, sigmas=(0.1,), num_samples=13)


def test_memory_once_and_attention_for_every_context():
    rows = list(benchmark_attention(CPU, SIZES, MEMORY, (5, 17), calls=2, compiled=False))
    assert [(row["pass"], row["what"], row["key_pos"]) for row in rows] == [
        (name, what, key_pos)
        for name in ("forward", "forward and backward")
        for what, key_pos in [("memory read", None), ("memory step", None)]
        + [(what, key_pos) for key_pos in (5, 17) for what in ("attention", "attention step")]
    ]
    assert {row["precision"] for row in rows} == {"float32"}
    assert all(0 < row["floor_milliseconds"] for row in rows)


def test_mixed_precision_adds_a_step_of_the_memory_and_is_what_attention_gets():
    rows = list(benchmark_attention(CPU, SIZES, MEMORY, (5,), calls=2, compiled=False, mixed=True))
    forward = [(row["what"], row["precision"]) for row in rows if row["pass"] == "forward"]
    assert forward == [
        ("memory read", "float32"),
        ("memory step", "float32"),
        ("memory step", "bfloat16"),
        ("attention", "bfloat16"),
        ("attention step", "bfloat16"),
    ]


def rows_of(attention_ms: dict[int, float], memory_ms: float) -> list[dict]:
    row = {"pass": "forward", "precision": "float32"}
    rows = [row | {"what": "attention", "key_pos": n, "milliseconds": ms} for n, ms in attention_ms.items()]
    return [*rows, row | {"what": "memory read", "key_pos": None, "milliseconds": memory_ms}]


@pytest.mark.parametrize(
    ("attention_ms", "expected"),
    [({1: 1.0, 2: 3.0, 4: 5.0}, 2), ({4: 5.0, 1: 3.0, 2: 1.0}, 4), ({1: 1.0, 2: 1.5}, None), ({1: 3.0, 2: 4.0}, 1)],
)
def test_the_crossover_is_where_the_memory_stays_faster(attention_ms, expected):
    assert crossover(rows_of(attention_ms, 2.0), "memory read", "attention", "forward") == expected


def test_a_memory_is_held_against_attention_in_the_same_precision():
    rows = [row | {"precision": "bfloat16"} for row in rows_of({1: 1.0, 2: 3.0}, 2.0)]
    rows += rows_of({}, 5.0)
    assert crossover(rows, "memory read", "attention", "forward") == 2
    assert crossover(rows, "memory read", "attention", "forward", "float32") is None
    only = [row for row in rows if row["what"] == "attention"] + rows_of({}, 0.5)
    assert crossover(only, "memory read", "attention", "forward") == 1


@pytest.mark.parametrize(
    ("rows", "asked", "message"),
    [
        (
            [{"what": "attention", "milliseconds": 1.0}],
            (),
            "rows must be those of benchmark_attention, got some without",
        ),
        (rows_of({}, 2.0), (), "rows must hold 'attention' with the pass 'forward': none was measured"),
        (rows_of({1: 1.0}, 2.0), ("float64",), "precision must be one that was measured, float32, got 'float64'"),
    ],
)
def test_what_was_not_measured_has_no_crossover(rows, asked, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        crossover(rows, "memory read", "attention", "forward", *asked)


def test_the_cached_step_is_attention_over_the_cache_with_the_segment_at_its_end():
    make = attention.partial(torch.randn, device=CPU, generator=torch.Generator().manual_seed(1))
    call = attention._attention_step(make, SIZES, 17, "forward", torch.float32)
    segment, keys, values, weight, out = call.args[1]
    (result,) = call()
    heads = lambda x: x.reshape(2, 5, 3, 11).transpose(1, 2)  # noqa: E731
    query, key, value = (heads(part) for part in (segment @ weight.mT).chunk(3, dim=-1))
    assert_close(keys[:, :, -5:, :11], key)  # the cache holds the segment now
    assert_close(values[:, :, -5:, :11], value)
    # What lies beyond a head in the cache is padding: it meets zeros in the query, and is cut from the result.
    weights = functional.softmax(query @ keys[..., :11].mT / 11**0.5, dim=-1)
    read = (weights @ values[..., :11]).transpose(1, 2).reshape(2, 5, 33)
    assert_close(result, read @ out.mT)


def test_the_memory_s_step_is_one_of_a_memory_that_has_seen_much():
    make = attention.partial(torch.randn, device=CPU, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    (result,) = attention._memory_step(make, SIZES, MEMORY, "forward", False, torch.float32)()
    torch.manual_seed(0)
    memory = LongTermMemory(33, 3, MEMORY)
    generator = torch.Generator().manual_seed(1)
    segment, coefficients = torch.randn(2, 5, 33, generator=generator), torch.randn(2, 7, 33, generator=generator)
    state = memory.empty(2)._replace(coefficients=coefficients, num_tokens=torch.full((2,), 320))
    assert_close(result, memory(segment, segment, state)[0])


@pytest.mark.parametrize("what", ["_attention", "_attention_step"])
def test_gradients_reach_everything(what):
    make = attention.partial(torch.randn, device=CPU, generator=torch.Generator().manual_seed(1))
    gradients = getattr(attention, what)(make, SIZES, 17, "forward and backward", torch.float32)()
    assert len(gradients) == (3 if what == "_attention" else 5)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_the_command_prints_a_table_and_writes_it(capsys, tmp_path):
    output = tmp_path / "attention.json"
    sizes = ["--batch", "2", "--queries", "5", "--heads", "3", "--d-head", "4", "--num-basis", "8"]
    options = ["--contexts", "5", "9", "--calls", "2", "--device", "cpu", "--output", str(output)]
    assert cli.main(["bench", "attention", *sizes, *options]) == 0
    printed, written = capsys.readouterr().out, json.loads(output.read_text())
    assert written["compiled"] is False and len(written["rows"]) == 12
    assert printed.count("attention step") == 4 and printed.count("any") == 4
