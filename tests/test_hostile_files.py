"""Files that somebody has cut off, damaged or made up: a sentence, and nothing is executed or allocated for them."""

import dataclasses
import json
import pickle
import random
import struct
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from tiny import tiny_config

from infmem import InfiniteFormerConfig, LongTermMemory, MemoryConfig, TransformerXLConfig, WindowTransformerConfig, cli
from infmem.checkpoint import load_checkpoint, read_tensors, save_checkpoint
from infmem.config import from_dict, parse_options, to_dict
from infmem.memory import CompressedMemoryConfig, load_state, save_state
from infmem.presets import MEMORY_CONFIGS, build_model
from infmem.run import Run, load_run, restored
from infmem.tasks.documents import PART_CHARACTERS
from infmem.tasks.text import read_corpus
from infmem.training import TrainingConfig
from infmem.validation import check_fields

CONFIG = tiny_config(steps=2)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run of this package."""
    folder = tmp_path_factory.mktemp("run")
    Run(CONFIG, folder).train(progress=False)
    return folder


@pytest.fixture(scope="module")
def whole(run_folder) -> bytes:
    """Its checkpoint."""
    return (run_folder / "checkpoint.safetensors").read_bytes()


def header_length(content: bytes) -> int:
    return 8 + struct.unpack("<Q", content[:8])[0]


def with_header(entries: dict, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


def parts_of(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint, to be damaged with sense, and no sum that would tell."""
    metadata = json.loads(content[8 : header_length(content)])["__metadata__"]
    return load(content), {name: entry for name, entry in metadata.items() if name != "check"}


def load_model(path: Path, content: bytes) -> None:
    """Read a file as every command does that needs a model."""
    path.write_bytes(content)
    restored(load_checkpoint(path))


def peak_memory() -> int:
    """Largest number of bytes that this process has had in memory so far."""
    resource = pytest.importorskip("resource", reason="Windows does not tell")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_cut_off_anywhere_is_refused(whole, tmp_path):
    draw, header = random.Random(0), header_length(whole)
    ends = [0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 1, *draw.choices(range(len(whole)), k=40)]
    for end in ends:
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            load_model(tmp_path / "checkpoint", whole[:end])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_model(tmp_path / "checkpoint", whole + b"\0")


def test_any_bit_of_the_header_that_is_flipped_is_refused(whole, tmp_path):
    draw, bits = random.Random(0), 8 * header_length(whole)
    for bit in [*range(8 * 16), *draw.sample(range(8 * 16, bits), 600)]:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            load_model(tmp_path / "checkpoint", bytes(damaged))
        except ValueError as error:
            assert str(error)
        else:
            pytest.fail(f"bit {bit % 8} of byte {bit // 8} was flipped, and nobody has seen it")


HUGE = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
HEADERS = {
    "more than is there": with_header({"model.x": HUGE}),
    "a product beyond 64 bits": with_header({"model.x": HUGE | {"shape": [2**40, 2**40]}}),
    "beyond 64 bits": with_header({"model.x": HUGE | {"shape": [10**30]}}),
    "no numbers of an endless axis": with_header({"x": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}}),
    "less than nothing": with_header({"model.x": HUGE | {"shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
    "an end before its start": with_header({"model.x": HUGE | {"shape": [1], "data_offsets": [4, 0]}}, b"1234"),
    "the same bytes twice": with_header(
        {name: HUGE | {"shape": [1], "data_offsets": [0, 4]} for name in "xy"}, b"1234"
    ),
    "a type of 4 bits": with_header({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"1"),
    "an unknown type": with_header({"x": {"dtype": "STR", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "metadata that are no text": with_header({"__metadata__": {"format": 1}}),
    "metadata that are a list": with_header({"__metadata__": ["infmem 1"]}),
    "a list": struct.pack("<Q", 2) + b"[]",
    "nothing": struct.pack("<Q", 0),
    "a header of 16 EiB": struct.pack("<Q", 2**64 - 1),
    "a header beyond the file": struct.pack("<Q", 10**9) + b"{}",
    "brackets without end": struct.pack("<Q", 10**6) + b"[" * 10**6,
    "a number without end": with_header({"__metadata__": {"format": "infmem 1", "config": "9" * 10**5, "step": "1"}}),
    "a pickle": pickle.dumps({"format": "infmem 1"}),
    "zeros": bytes(1000),
    "text": b"The wind in the willows" * 100,
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_made_up_header_is_refused(content, tmp_path):
    before = peak_memory()
    with pytest.raises(ValueError, match=r"is not a whole safetensors file|is not a checkpoint|has a damaged header"):
        load_model(tmp_path / "checkpoint", content)
    assert peak_memory() - before < 2**26


METADATA = {
    "another format": {"format": "infmem 99"},
    "no configuration": {"config": "null"},
    "half a configuration": {"config": "{"},
    "another seed": {"config": json.dumps(to_dict(dataclasses.replace(CONFIG, seed=1)))},
    "brackets without end": {"config": "[" * 10**5},
    "a step that is none": {"step": "many"},
    "a step before the first": {"step": "-1"},
    "a step without end": {"step": "9" * 10**4},
    "no time": {"seconds": "nan"},
    "endless time": {"seconds": "inf"},
    "an entry more": {"pickle": "gASVAAA="},
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
@pytest.mark.parametrize("has_check", [True, False])
def test_made_up_metadata_are_refused(metadata, has_check, whole, tmp_path):
    tensors, entries = parts_of(whole)
    entries |= metadata | ({"check": "5d83dbcc"} if has_check else {})
    if metadata.get("config", "").startswith('{"') and not has_check:  # what makes sense is believed
        return load_model(tmp_path / "checkpoint", save(tensors, entries))
    with pytest.raises(ValueError, match=r"damaged header|is not a checkpoint|must be an object"):
        load_model(tmp_path / "checkpoint", save(tensors, entries))


def test_a_file_with_room_for_nothing_but_zeros_takes_no_memory(whole, tmp_path):
    """As large as it declares, and empty: what a model does not need is never looked at."""
    path, numbers = tmp_path / "checkpoint", 2**31
    entries = {"__metadata__": parts_of(whole)[1]}
    entries["model.embedding.weight"] = {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}
    path.write_bytes(with_header(entries))
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 4 * numbers)
    before = peak_memory()
    with pytest.raises(ValueError, match="holds 2,147,483,648 weights, but a model of its configuration has"):
        restored(load_checkpoint(path))
    assert peak_memory() - before < 2**26


def test_a_few_letters_do_not_ask_for_gigabytes(whole, tmp_path):
    tensors, entries = parts_of(whole)
    large = dataclasses.replace(CONFIG.model, d_model=12 * 600, d_ff=2**15)
    entries["config"] = json.dumps(to_dict(dataclasses.replace(CONFIG, model=large)))
    before = peak_memory()
    with pytest.raises(ValueError, match="weights, but a model of its configuration has"):
        load_model(tmp_path / "checkpoint", save(tensors, entries))
    assert peak_memory() - before < 2**26


@pytest.mark.parametrize("name", ["model.embedding.weight", "optimizer.exp_avg.output.bias"])
@pytest.mark.parametrize("damage", ["nan", "inf", "turned", "whole numbers", "lost", "renamed"])
def test_tensors_that_are_not_the_models_are_refused_and_the_model_stays(name, damage, whole, tmp_path):
    tensors, entries = parts_of(whole)
    tensor = tensors[name]
    if damage in ("nan", "inf"):
        tensor.view(-1)[-1] = float(damage)
    elif damage == "turned":
        tensors[name] = tensor.unsqueeze(0) if tensor.ndim == 1 else tensor.T.contiguous()
    elif damage == "whole numbers":
        tensors[name] = tensor.int()
    else:
        del tensors[name]
        if damage == "renamed":
            tensors[name + "s"] = tensor
    path = tmp_path / "checkpoint"
    path.write_bytes(save(tensors, entries))
    model = build_model(CONFIG.model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"the checkpoint's (weights|optimiser)"):
        load_checkpoint(path).load_into(model, torch.optim.Adam(model.parameters(), fused=True))
    if name.startswith("model"):
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_of_another_model_are_refused(whole, tmp_path):
    tensors, entries = parts_of(whole)
    for other in ("transformer-xl", "compressive-transformer", "window"):
        entries["config"] = json.dumps(to_dict(tiny_config(other)))
        with pytest.raises(ValueError, match="weights, but a model of its configuration has"):
            load_model(tmp_path / "checkpoint", save(tensors, entries))


class Trap:
    """Calls for help if it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_nothing_in_a_file_is_executed(form, tmp_path, capsys):
    folder, trap = tmp_path / "run", tmp_path / "executed"
    folder.mkdir()
    path = folder / "checkpoint.safetensors"
    if form == "torch":
        torch.save({"model": Trap(trap)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_run(folder)
    for arguments in (["evaluate", str(folder)], ["train", "--run", "other", "--start", str(folder)]):
        assert cli.main(arguments) == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("such as a pickle") == error.count("\n") == 2
    assert not trap.exists()


@given(position=st.floats(0, 1), byte=st.integers(0, 255), where=st.sampled_from(["header", "anywhere"]))
def test_a_byte_that_is_replaced_is_refused_or_a_number_that_makes_sense(run_folder, position, byte, where):
    whole = (run_folder / "checkpoint.safetensors").read_bytes()
    end = header_length(whole) if where == "header" else len(whole)
    index = int(position * (end - 1))
    try:
        load_model(run_folder / "replaced", whole[:index] + bytes([byte]) + whole[index + 1 :])
    except ValueError:
        return
    assert index >= header_length(whole) or byte == whole[index]


def test_a_checkpoint_can_be_read_by_those_who_may_read_the_folder(tmp_path):
    """safetensors by itself writes files that are their owner's alone."""
    (tmp_path / "plain").touch()
    save_checkpoint(tmp_path / "checkpoint", {}, 0, 0.0, torch.nn.Linear(2, 3), None)
    assert (tmp_path / "checkpoint").stat().st_mode == (tmp_path / "plain").stat().st_mode


# --- states -----------------------------------------------------------------------------------------------------------


STATES = {
    "a signal that is not finite": ({"coefficients": torch.full((2, 6, 12), float("nan"))}, "coefficients in"),
    "a histogram that is not finite": ({"histogram": torch.full((2, 128), float("inf"))}, "histogram in"),
    "fewer than no tokens": ({"num_tokens": torch.tensor([3, -1])}, "num_tokens in .* must be >= 0, got -1"),
    "counts that are no counts": ({"num_tokens": torch.tensor([3.0, 1.0])}, "must hold real numbers, counts in int64"),
    "a signal of whole numbers": ({"coefficients": torch.ones(2, 6, 12, dtype=torch.int64)}, "must hold real numbers"),
    "another batch": ({"num_tokens": torch.tensor([3])}, r"must hold the sizes \(batch, basis, d_model\)"),
    "an axis less": ({"coefficients": torch.ones(2, 6)}, r"must hold the sizes \(batch, basis, d_model\)"),
    "a tensor more": ({"more": torch.ones(2)}, "must hold coefficients, num_tokens, histogram, got"),
}


@pytest.mark.parametrize(("changes", "message"), STATES.values(), ids=STATES)
def test_states_that_are_none_are_refused(changes, message, tmp_path):
    path = tmp_path / "state"
    save_state(LongTermMemory(12, 3, CONFIG.model.memory).empty(2), path)
    path.write_bytes(save(load(path.read_bytes()) | changes))
    with pytest.raises(ValueError, match=message):
        load_state(path)


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_made_up_file_is_no_state(content, tmp_path):
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a whole safetensors file|must hold coefficients"):
        load_state(tmp_path / "state")


# --- configurations ---------------------------------------------------------------------------------------------------

KINDS = [TrainingConfig, InfiniteFormerConfig, TransformerXLConfig, WindowTransformerConfig, MemoryConfig]
GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**18, 10**400) | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9) | st.just("class"), inner, max_size=3)
    ),
    max_leaves=9,
)


def paths(entries: dict, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every field of nested entries."""
    found = []
    for name, value in entries.items():
        found += [(*before, name), *(paths(value, (*before, name)) if isinstance(value, dict) else [])]
    return found


@given(entries=GARBAGE, kind=st.sampled_from(KINDS))
def test_garbage_is_no_configuration(entries, kind):
    with pytest.raises(ValueError, match=kind.__name__):
        from_dict(kind, entries)


@given(data=st.data(), garbage=GARBAGE)
def test_garbage_in_one_field_is_refused_or_makes_a_configuration(data, garbage):
    entries = json.loads(json.dumps(to_dict(CONFIG)))
    *inner, last = data.draw(st.sampled_from(paths(entries)))
    place = entries
    for name in inner:
        place = place[name]
    place[last] = garbage
    try:
        config = from_dict(TrainingConfig, entries)
    except ValueError as error:
        assert str(error)
    else:
        check_fields(config)
        assert from_dict(TrainingConfig, to_dict(config)) == config


@given(
    data=st.data(), kind=st.sampled_from(list(MEMORY_CONFIGS.values())), typed=st.text(max_size=9) | GARBAGE.map(str)
)
def test_garbage_that_is_typed_is_refused_or_makes_a_configuration(data, kind, typed):
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(kind)]))
    try:
        kind(**parse_options(kind, [f"{name}={typed}"]))
    except ValueError as error:
        assert name in str(error)


ABSURD = [
    (InfiniteFormerConfig, {"d_model": 10**9, "num_heads": 1}, "d_model must be at most 16,777,216, got 1,000,000,000"),
    (InfiniteFormerConfig, {"num_layers": 10**9}, "num_layers must be at most"),
    (
        InfiniteFormerConfig,
        {"vocab_size": 10**400},
        "vocab_size must be a number of sensible size, got one of 1329 bits",
    ),
    (InfiniteFormerConfig, {"d_ff": 10**9}, "d_ff must be at most"),
    (MemoryConfig, {"num_basis": 10**9}, "num_basis must be at most 16,384"),
    (MemoryConfig, {"num_samples": 10**9}, "num_samples must be at most"),
    (MemoryConfig, {"num_bins": 10**9}, "num_bins must be at most"),
    (CompressedMemoryConfig, {"length": 10**9}, "length must be at most"),
    (CompressedMemoryConfig, {"rate": 10**9}, "rate must be at most"),
]


@pytest.mark.parametrize(("kind", "changes", "message"), ABSURD, ids=lambda value: str(value)[:40])
def test_absurd_sizes_are_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(**changes)


@pytest.mark.parametrize("changes", [{"batch_size": 2**20}, {"length": 10**12}, {"length": 2**20, "batch_size": 2**20}])
def test_batches_that_fit_into_no_memory_are_refused(changes):
    with pytest.raises(ValueError, match=r"batch_size \* length must be at most 268,435,456 tokens"):
        tiny_config(**{"length": 2**10} | changes)


LARGE = [
    WindowTransformerConfig(d_model=2**24, num_heads=1),
    TransformerXLConfig(num_layers=2**24),
    InfiniteFormerConfig(vocab_size=2**24),
    InfiniteFormerConfig(d_model=2**14, num_layers=9, num_heads=1),
]


@pytest.mark.parametrize("config", LARGE, ids=lambda config: str(config)[:60])
def test_a_model_that_fits_into_no_memory_is_refused_before_it_takes_any(config):
    before = peak_memory()
    with pytest.raises(
        ValueError, match=r"has [\d,]+ weights, and more than 1,073,741,824 are not built: lower d_model"
    ):
        build_model(config)
    assert peak_memory() - before < 2**26


def test_numbers_beyond_all_numbers_are_refused():
    with pytest.raises(
        ValueError, match=r"MemoryConfig.ridge must be a number of sensible size, got one of 401 digits"
    ):
        from_dict(MemoryConfig, to_dict(MemoryConfig()) | {"ridge": 10**400})


def test_what_is_read_of_a_file_takes_no_memory_of_its_own(tmp_path):
    (tmp_path / "large").write_bytes(save({"x": torch.ones(2**25)}))
    before = peak_memory()
    tensors, _ = read_tensors(tmp_path / "large")
    assert tensors["x"].shape == (2**25,) and peak_memory() - before < 2**26


# --- texts ------------------------------------------------------------------------------------------------------------


def test_a_line_of_200_megabytes_is_cut_into_parts(tmp_path):
    """It begins as a title does, so that it is searched to its end."""
    path, size = tmp_path / "line", 200_000_000
    path.write_text(" = x" * (size // 4))
    before = peak_memory()
    corpus = read_corpus(data=path)
    path.unlink()
    assert sum(len(document.text) for document in corpus.documents) == size
    assert max(len(document.text) for document in corpus.documents) <= PART_CHARACTERS
    assert peak_memory() - before < 4 * size
