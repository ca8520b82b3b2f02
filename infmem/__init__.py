"""infmem: learn, build and trust the infinite-former, a transformer with an unbounded long-term memory."""

from infmem.memory import (
    CompressedMemory,
    CompressedMemoryConfig,
    CompressedState,
    LongTermMemory,
    MemoryConfig,
    MemoryState,
)
from infmem.models import (
    CompressiveTransformer,
    CompressiveTransformerConfig,
    InfiniteFormer,
    InfiniteFormerConfig,
    TransformerXL,
    TransformerXLConfig,
    WindowTransformer,
    WindowTransformerConfig,
)

__version__ = "0.1.0"

__all__ = [
    "CompressedMemory",
    "CompressedMemoryConfig",
    "CompressedState",
    "CompressiveTransformer",
    "CompressiveTransformerConfig",
    "InfiniteFormer",
    "InfiniteFormerConfig",
    "LongTermMemory",
    "MemoryConfig",
    "MemoryState",
    "TransformerXL",
    "TransformerXLConfig",
    "WindowTransformer",
    "WindowTransformerConfig",
]
