"""`infmem bench train | read | attention | stream | soak`: prints a table and writes all that was measured as JSON."""

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from infmem.benchmark.attention import CONTEXTS, benchmark_attention
from infmem.benchmark.read import benchmark_read
from infmem.benchmark.soak import benchmark_soak
from infmem.benchmark.stream import TOKENS_SEEN, benchmark_stream
from infmem.benchmark.timing import device_rates
from infmem.benchmark.train import benchmark_training
from infmem.checkpoint import write_text
from infmem.cost import ReadSizes
from infmem.demo import demo_config
from infmem.distributed import joined_workers
from infmem.fast import why_not_compile
from infmem.memory import MemoryConfig
from infmem.presets import PRESETS, Device, MemoryName, ModelName, PresetName, choose_device, device_name
from infmem.validation import require

Switch = Literal["auto", "on", "off"]

# What is read by default: at the sizes of the released code on a GPU, few queries on a CPU.
ON_GPU, ON_CPU = ReadSizes(), ReadSizes(batch=1, query_pos=512)


@dataclass(frozen=True)
class Train:
    """Time training steps: the plain step beside the fast one.

    Several GPUs share each batch: torchrun --nproc_per_node=K -m infmem.cli -- bench train ...
    """

    presets: tuple[PresetName, ...] = ()
    """sizes of models and task; by default small and full on a GPU, classroom on a CPU."""
    models: tuple[ModelName, ...] = ("infinite-former", "compressive-transformer", "transformer-xl")
    """the models to train."""
    batch_size: int | None = None
    """sequences per step; by default the preset's."""
    steps: int = 50
    """steps that are timed."""
    output: Path = Path("runs/bench-train.json")
    """JSON file to write."""
    device: Device = "auto"
    """where to train."""


@dataclass(frozen=True)
class _OfMemory:
    """What `Read` and `Attention` share."""

    batch: int | None = None
    """rows; by default 8 on a GPU, 1 on a CPU."""
    queries: int | None = None
    """queries in each, and tokens of what is written; by default 1,024 on a GPU, 512 on a CPU."""
    heads: int = 6
    """heads."""
    d_head: int = 50
    """size of a head."""
    num_basis: int = 512
    """basis functions N."""
    memory: MemoryName = "best"
    """preset of the memory: heads of best look at [0, 1] alone, those of the others at the whole line."""
    device: Device = "auto"
    """where to work."""


@dataclass(frozen=True)
class Read(_OfMemory):
    """Time a read of the memory: as the paper writes it, collapsed, compiled, and on a GPU in one kernel."""

    compile: Switch = "auto"
    """time compiled forms too; auto does it where it is possible."""
    calls: int = 50
    """calls that are timed."""
    output: Path = Path("runs/bench-read.json")
    """JSON file to write."""


@dataclass(frozen=True)
class Attention(_OfMemory):
    """Time a read and a whole step of the memory beside full attention to more and more keys."""

    contexts: tuple[int, ...] = ()
    """numbers of keys; by default the powers of 2 from 1,024 to 1,048,576 on a GPU, to 16,384 on a CPU."""
    compile: Switch = "auto"
    """compile the memory's step; auto does it on a GPU."""
    calls: int | None = None
    """calls that are timed; by default 50 on a GPU, 8 on a CPU."""
    output: Path = Path("runs/bench-attention.json")
    """JSON file to write."""


@dataclass(frozen=True)
class Stream:
    """Time a segment, and count the state's bytes, after more and more tokens, in every model."""

    preset: PresetName | None = None
    """sizes of the models; by default full on a GPU, small on a CPU."""
    tokens_seen: tuple[int, ...] = TOKENS_SEEN
    """how many tokens were read before."""
    batch: int = 1
    """sequences side by side."""
    streamed: int | None = None
    """tokens that are really read, beyond it the state is set; by default 1,048,576 on a GPU, 16,384 on a CPU."""
    cache_gib: float | None = None
    """largest cache of full attention; by default three quarters of a GPU's free memory, 0.5 on a CPU."""
    calls: int = 20
    """segments that are timed."""
    output: Path = Path("runs/bench-stream.json")
    """JSON file to write."""
    device: Device = "auto"
    """where to read."""


@dataclass(frozen=True)
class Soak:
    """Read for hours with every model and memory: exit code 1 if anything has grown, drifted or broken."""

    preset: PresetName | None = None
    """sizes of the models; by default small on a GPU, classroom on a CPU."""
    tokens: int | None = None
    """tokens that each model reads; by default 10,000,000 on a GPU, 1,000,000 on a CPU."""
    updates: int = 10_000
    """updates of each memory."""
    batch: int = 1
    """sequences side by side."""
    segment_length: int | None = None
    """tokens of a segment; by default 1,024 on a GPU, 256 on a CPU."""
    resume: bool = False
    """keep the rows that the file already has, if they are of the same soak, and do the rest."""
    output: Path = Path("runs/bench-soak-{device}.json")
    """JSON file to write, after each row anew; cpu or cuda stands in place of {device}."""
    device: Device = "auto"
    """where to read."""


def _named(name: str) -> Any:
    return tyro.conf.subcommand(name, prefix_name=False)


What = (
    Annotated[Train, _named("train")]
    | Annotated[Read, _named("read")]
    | Annotated[Attention, _named("attention")]
    | Annotated[Stream, _named("stream")]
    | Annotated[Soak, _named("soak")]
)


def bench(what: Annotated[What, tyro.conf.arg(name="")] = Train()) -> int:
    """Time training steps, reads, full attention beside a memory, or an endless stream; or see whether one holds.

    Args:
        what: what to time.
    """
    commands = {Train: _train, Read: _read, Attention: _attention, Stream: _stream, Soak: _soak}
    run: Callable[[Any], int] = commands[type(what)]
    return run(what)


def _train(options: Train) -> int:
    with joined_workers(choose_device(options.device)) as workers:
        name = device_name(workers.device, workers.size)
        names = options.presets or (("small", "full") if workers.device.type == "cuda" else ("classroom",))
        if workers.is_first:
            print(
                f"Steps on {name}, PyTorch {torch.__version__}: median [middle half] of {options.steps}\n{TRAIN_HEAD}",
                flush=True,
            )
        rows = []
        for preset in names:
            configs = [demo_config(model, PRESETS[preset], seed=0) for model in options.models]
            if options.batch_size is not None:
                configs = [dataclasses.replace(config, batch_size=options.batch_size) for config in configs]
            for row in benchmark_training(configs, workers, steps=options.steps):
                rows.append({"preset": preset} | row)
                if workers.is_first:
                    print(_train_line(rows[-1]), flush=True)
    if workers.is_first:
        _write(options.output, name, {}, rows)
    return 0


TRAIN_HEAD = (
    f"{'preset':<10}{'model':<24}{'path':<7}{'ms a step':>10}  {'middle half':<18}{'tokens/s':>10}{'GPU GiB':>9}"
)


def _train_line(row: dict) -> str:
    memory = "" if row["gpu_memory_gib"] is None else f"{row['gpu_memory_gib']:.1f}"
    return (
        f"{row['preset']:<10}{row['model']:<24}{row['path']:<7}{row['milliseconds']:>10.2f}  "
        f"{_middle_half(row, 2):<18}{row['tokens_per_second']:>10,}{memory:>9}"
    )


def _read(options: Read) -> int:
    device, sizes = choose_device(options.device), _sizes(options)
    memory = getattr(MemoryConfig, options.memory)(num_basis=sizes.num_basis, own_query=False, gate=False)
    compiled = _compiled(options.compile, device, True)
    head = (
        f"{'begins with':<12}{'form':<29}{'pass':<22}{'ms':>9}  {'middle half':<20}{'floor':>8}{'MiB':>9}{'differs':>9}"
    )

    def line(row: dict) -> str:
        return (
            f"{row['begins_with']:<12}{row['form']:<29}{row['pass']:<22}"
            f"{row['milliseconds']:>9.4f}  {_middle_half(row, 4):<20}{row['floor_milliseconds']:>8.4f}"
            f"{row['peak_mib']:>9.1f}{row['difference']:>9.0e}"
        )

    rates = device_rates(device)
    rows = benchmark_read(device, sizes, memory, calls=options.calls, compiled=compiled, rates=rates)
    settings = {"sizes": dataclasses.asdict(sizes), "memory": options.memory, "rates": rates._asdict()}
    return _tell("Reads", device, options, settings, rows, head, line)


def _attention(options: Attention) -> int:
    device, sizes = choose_device(options.device), _sizes(options)
    on_gpu = device.type == "cuda"
    memory = getattr(MemoryConfig, options.memory)(num_basis=sizes.num_basis)
    contexts = options.contexts or (CONTEXTS if on_gpu else CONTEXTS[:5])
    calls = options.calls if options.calls is not None else (50 if on_gpu else 8)
    compiled = _compiled(options.compile, device, on_gpu)
    head = (
        f"{'what':<16}{'precision':<10}{'pass':<22}{'keys':>10}{'ms':>11}  {'middle half':<22}{'floor':>10}{'MiB':>9}"
    )

    def line(row: dict) -> str:
        keys = "any" if row["key_pos"] is None else f"{row['key_pos']:,}"
        return (
            f"{row['what']:<16}{row['precision']:<10}{row['pass']:<22}{keys:>10}{row['milliseconds']:>11.4f}  "
            f"{_middle_half(row, 4):<22}{row['floor_milliseconds']:>10.4f}{row['peak_mib']:>9.1f}"
        )

    rates = device_rates(device)
    rows = benchmark_attention(
        device, sizes, memory, contexts, calls=calls, compiled=compiled, mixed=on_gpu, rates=rates
    )
    settings = {"sizes": dataclasses.asdict(sizes), "memory": options.memory, "compiled": compiled}
    settings |= {"rates": rates._asdict()}
    return _tell("Memory and full attention", device, options, settings, rows, head, line)


def _stream(options: Stream) -> int:
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    preset = options.preset or ("full" if on_gpu else "small")
    streamed = options.streamed if options.streamed is not None else (2**20 if on_gpu else 2**14)
    gib = options.cache_gib
    if gib is None:
        gib = 0.75 * torch.cuda.mem_get_info(device)[0] / 2**30 if on_gpu else 0.5
    head = (
        f"{'model':<25}{'tokens seen':>12}{'ms a segment':>14}  {'middle half':<20}{'state bytes':>16}  tokens before"
    )

    def line(row: dict) -> str:
        timed, half = "does not fit", ""
        if row["milliseconds"] is not None:
            timed, half = f"{row['milliseconds']:.3f}", _middle_half(row, 3)
        before = "were read" if row["streamed"] else "as if read"
        return f"{row['model']:<25}{row['tokens_seen']:>12,}{timed:>14}  {half:<20}{row['state_bytes']:>16,}  {before}"

    rows = benchmark_stream(
        device,
        PRESETS[preset],
        options.tokens_seen,
        batch=options.batch,
        streamed=streamed,
        cache_bytes=round(gib * 2**30),
        calls=options.calls,
        mixed=on_gpu,
    )
    settings = {"preset": preset, "streamed": streamed, "cache_gib": round(gib, 2), "mixed_precision": on_gpu}
    return _tell("Segments of a stream", device, options, settings, rows, head, line)


def _soak(options: Soak) -> int:
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    settings = {
        "preset": options.preset or ("small" if on_gpu else "classroom"),
        "tokens": options.tokens if options.tokens is not None else (10**7 if on_gpu else 10**6),
        "updates": options.updates,
        "batch": options.batch,
        "segment_length": options.segment_length if options.segment_length is not None else (1024 if on_gpu else 256),
    }
    output = options.output.with_name(options.output.name.replace("{device}", device.type))
    rows = _kept_rows(output, {"device": device_name(device), "torch": torch.__version__} | settings, options.resume)

    def line(row: dict) -> str:
        read = f"{row['updates']:,} updates" if "updates" in row else f"{row['tokens']:,} tokens"
        about = f"{row['what']:<8}{row['name']:<26}{row['precision']:<10}{read:>18}  {row['minutes']:6.1f} minutes"
        return f"{about}  {'; '.join(row['problems']) or 'holds'}"

    print(f"Soaking on {device_name(device)}, PyTorch {torch.__version__}", *map(line, rows), sep="\n", flush=True)
    began, done = time.perf_counter(), [(row["what"], row["name"], row["precision"]) for row in rows]
    for row in benchmark_soak(
        PRESETS[settings["preset"]],
        **{name: value for name, value in settings.items() if name != "preset"},
        device=device,
        done=done,
    ):
        rows.append(row | {"minutes": round((time.perf_counter() - began) / 60, 2)})
        print(line(rows[-1]), flush=True)
        _record(output, device_name(device), settings, rows)
        began = time.perf_counter()
    print(f"{output}: written")
    return int(any(row["problems"] for row in rows))


def _kept_rows(output: Path, expected: dict, resume: bool) -> list[dict]:
    """The rows of an unfinished soak that is to be resumed; of another one they are refused."""
    if not (resume and output.exists()):
        return []
    try:
        found = json.loads(output.read_text(encoding="utf-8"))
        rows = [row for row in found["rows"] if not row["problems"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{output} is not the report of a soak: leave --resume out, and it is written anew") from error
    for name, value in expected.items():
        require(
            found.get(name) == value,
            f"{output} is of another soak: its {name} is {found.get(name)!r}, not {value!r}; leave --resume out, "
            "and it is written anew",
        )
    return rows


def _sizes(options: _OfMemory) -> ReadSizes:
    """The sizes that were asked for, the device's own where none was given."""
    default = ON_GPU if choose_device(options.device).type == "cuda" else ON_CPU
    return ReadSizes(
        batch=default.batch if options.batch is None else options.batch,
        query_pos=default.query_pos if options.queries is None else options.queries,
        num_heads=options.heads,
        d_head=options.d_head,
        num_basis=options.num_basis,
    )


def _compiled(choice: Switch, device: torch.device, sensible: bool) -> bool:
    reason = why_not_compile(device)
    require(choice != "on" or reason is None, f"nothing can be compiled here: {reason}; leave --compile on out")
    return choice == "on" or (choice == "auto" and sensible and reason is None)


def _middle_half(row: dict, digits: int) -> str:
    lower, upper = row["middle_half"]
    return f"[{lower:.{digits}f}, {upper:.{digits}f}]"


def _tell(
    title: str,
    device: torch.device,
    options: Read | Attention | Stream,
    settings: dict,
    rows: Iterable[dict],
    head: str,
    line: Callable[[dict], str],
) -> int:
    """Print each row as it comes, then write all of them."""
    kept = []
    for row in rows:
        if not kept:  # whatever is wrong with the options is told before anything else
            print(f"{title} on {device_name(device)}, PyTorch {torch.__version__}: medians\n{head}", flush=True)
        kept.append(row)
        print(line(row), flush=True)
    _write(options.output, device_name(device), settings, kept)
    return 0


def _write(output: Path, name: str, settings: dict, rows: list[dict]) -> None:
    _record(output, name, settings, rows)
    print(f"{output}: written")


def _record(output: Path, name: str, settings: dict, rows: list[dict]) -> None:
    about = {"command": shlex.join(["infmem", *sys.argv[1:]]), "device": name, "torch": torch.__version__}
    about |= {"threads": torch.get_num_threads()}
    write_text(output, json.dumps(about | settings | {"rows": rows}, indent=1) + "\n")
