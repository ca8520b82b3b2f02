"""How long things take, in one process and beside each other: training steps, reads, full attention, long streams."""

from infmem.benchmark.attention import benchmark_attention, crossover
from infmem.benchmark.read import benchmark_read
from infmem.benchmark.stream import benchmark_stream
from infmem.benchmark.train import benchmark_training

__all__ = ["benchmark_attention", "benchmark_read", "benchmark_stream", "benchmark_training", "crossover"]
