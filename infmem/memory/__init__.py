"""The memories: configuration, state, and the modules that write and read."""

from infmem.memory.compressed import CompressedMemory, CompressedMemoryConfig, CompressedState
from infmem.memory.config import MemoryConfig
from infmem.memory.long_term_memory import LongTermMemory, MemoryReading
from infmem.memory.operators import first_operator, sampling_locations, sticky_operators, update_recurrence
from infmem.memory.projections import Projections
from infmem.memory.state import MemoryState, load_state, save_state

__all__ = [
    "CompressedMemory",
    "CompressedMemoryConfig",
    "CompressedState",
    "LongTermMemory",
    "MemoryConfig",
    "MemoryReading",
    "MemoryState",
    "Projections",
    "first_operator",
    "load_state",
    "sampling_locations",
    "save_state",
    "sticky_operators",
    "update_recurrence",
]
