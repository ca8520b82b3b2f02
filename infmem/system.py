"""What a report of a bug needs: versions, the machine, and where this package comes from."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import infmem

# What this package builds on, and Triton, which only some machines have.
PACKAGES = (
    *("torch", "numpy", "einops", "matplotlib", "ipywidgets", "tqdm", "safetensors", "jaxtyping", "tyro"),
    *("jupyterlab", "triton"),
)


def system_lines() -> list[str]:
    """Versions, machine and origin, a line each.

    Example:
        >>> system_lines()[0].startswith("infmem ")
        True
    """
    folder = Path(infmem.__file__).parent
    return [
        f"infmem {infmem.__version__} in {folder}, {commit(folder)}",
        f"Python {platform.python_version()} ({platform.python_implementation()}) on {platform.platform()}",
        f"CPU: {_cpu_name()}, {os.cpu_count()} cores, of which PyTorch uses {torch.get_num_threads()}",
        f"GPU: {_gpus()}",
        ", ".join(f"{name} {installed(name) or 'not installed'}" for name in PACKAGES),
    ]


def installed(name: str) -> str | None:
    """The version of a package, of PyTorch with the build; None if it is not installed.

    Example:
        >>> installed("there-is-no-such-package") is None
        True
    """
    try:
        return torch.__version__ if name == "torch" else version(name)
    except PackageNotFoundError:
        return None


def commit(folder: Path) -> str:
    """The commit that a folder's files are of, and whether they have been changed since.

    Example:
        >>> commit(Path("/"))
        'not a git checkout'
    """
    # Asked for a file of the folder: else an environment within another project would answer for that one.
    tracked = _git(folder, "ls-files", "__init__.py")
    found = _git(folder, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty") if tracked else None
    return f"commit {found.replace('-dirty', ' with changes')}" if found else "not a git checkout"


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None if it fails, or there is none."""
    try:
        return subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    """The processor's own name where the system tells; its kind otherwise."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> str:
    if not torch.cuda.is_available():
        return f"none that PyTorch could use (built for CUDA {torch.version.cuda or 'none'})"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(names)}, CUDA {torch.version.cuda}"
