"""Importing infmem is cheap and has no side effects. Each check has a fresh process: this one has imported it all."""

import os
import statistics
import subprocess
import sys

import pytest


def python(code: str) -> str:
    """What a fresh Python prints, without the extra threads and hooks of this one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def seconds_to_import(module: str) -> float:
    """Processor time, which other programs on the machine disturb less than a clock; the median of three."""
    code = f"import time; import {module}; print(time.process_time())"
    return statistics.median(float(python(code)) for _ in range(3))


def test_importing_infmem_takes_little_more_than_importing_torch():
    assert seconds_to_import("infmem") < 1.5 * seconds_to_import("torch")


@pytest.mark.parametrize("module", ["matplotlib", "ipywidgets", "tyro", "IPython", "transformers"])
def test_importing_infmem_imports_nothing_heavy(module):
    assert python(f"import infmem, sys; print({module!r} in sys.modules)") == "False"


def test_the_command_line_starts_without_a_compiler():
    assert python("import infmem.cli, sys; print('torch._dynamo' in sys.modules)") == "False"


def test_importing_infmem_touches_neither_network_nor_gpu():
    code = """
import socket, torch
def refuse(*args, **kwargs): raise RuntimeError("no network while importing")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
state = torch.get_rng_state()
import infmem
print(torch.cuda.is_initialized(), torch.equal(state, torch.get_rng_state()), torch.get_default_dtype())
"""
    assert python(code) == "False True torch.float32"


def test_public_names_are_there():
    import infmem

    assert all(hasattr(infmem, name) for name in infmem.__all__)
    for name in (
        "LongTermMemory",
        "MemoryConfig",
        "MemoryState",
        "InfiniteFormer",
        "TransformerXL",
        "WindowTransformer",
    ):
        assert name in infmem.__all__
