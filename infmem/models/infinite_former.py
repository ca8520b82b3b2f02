r"""The infinite-former: a Transformer-XL whose forgotten hidden states enter an unbounded long-term memory.

Each layer has a short-term memory of the last hidden states, as in Transformer-XL. What leaves it is written to the
layer's long-term memory, and every position reads both: $Z = Z_{STM} + Z_{LTM}$.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from infmem.memory import LongTermMemory, MemoryConfig, MemoryState, Projections
from infmem.models.long_term import LongTermTransformer
from infmem.models.transformer_xl import LayerOutput, TransformerXLConfig, initialize
from infmem.validation import require


@dataclass(frozen=True)
class InfiniteFormerConfig(TransformerXLConfig):
    """An infinite-former.

    Args:
        memory_length: hidden states in each layer's short-term memory.
        memory: the long-term memory.
    """

    memory_length: int = 128
    memory: MemoryConfig = field(default_factory=MemoryConfig.best)

    def __post_init__(self):
        super().__post_init__()
        require(
            isinstance(self.memory, MemoryConfig), f"memory must be a MemoryConfig, got {type(self.memory).__name__}"
        )


class InfiniteFormer(LongTermTransformer):
    r"""The infinite-former (Martins et al. 2022).

    Equation:
        $h' = \mathrm{LayerNorm}(h + Z_{STM} + Z_{LTM})$ in every layer, with $Z_{STM}$ from relative attention over
        short-term memory and segment, $Z_{LTM}$ from the long-term memory of all that is older.

    Args:
        config: sizes and memory.

    Source: Martins et al. 2022 (arXiv 2109.00301).

    Differs from the paper: its choices are in `MemoryConfig`. The regulariser is averaged over heads and queries and
        summed over layers, as in the released code.

    Example:
        >>> import torch
        >>> memory = MemoryConfig.best(num_basis=8, num_samples=16)
        >>> config = InfiniteFormerConfig(d_model=12, num_heads=3, num_layers=2, memory_length=5, memory=memory)
        >>> model, state = InfiniteFormer(config), None
        >>> for segment in torch.zeros(4, 2, 5, dtype=torch.int64):
        ...     logits, state = model(segment, state)
        >>> logits.shape, state.long_term[0].num_tokens
        (torch.Size([2, 5, 22]), tensor([10, 10]))
    """

    def __init__(self, config: InfiniteFormerConfig):
        require(
            isinstance(config, InfiniteFormerConfig),
            f"config must be an InfiniteFormerConfig, got {type(config).__name__}",
        )
        super().__init__(config.narrowed(TransformerXLConfig))
        self.config = config
        self.long_term_memories = nn.ModuleList(
            LongTermMemory(config.d_model, config.num_heads, config.memory) for _ in range(config.num_layers)
        )
        self.long_term_memories.apply(initialize)
        for memory in self.long_term_memories:
            memory.begin_as_configured()

    @property
    def depends_on_attention(self) -> bool:
        """Whether what is written depends on where the segment before has looked."""
        return self.config.memory.sticky != "none"

    def shared_projections(self, layer: int) -> Projections | None:
        """The weights of a layer's attention that its long-term memory is read with; None where it has its own.

        Args:
            layer: which one.
        """
        if self.config.memory.projections == "own":
            return None
        attention = self.blocks[layer].attention
        return Projections(*attention.key_value.weight.chunk(2), attention.out.weight)

    def layer(
        self,
        layer: int,
        hidden: Tensor,
        recent: Tensor,
        memory: MemoryState | None = None,
        num_seen: Tensor | None = None,
    ) -> LayerOutput:
        """Pass hidden states through one layer, which also reads its long-term memory once something was written."""
        if memory is None or not bool(memory.num_tokens.any()):
            return super().layer(layer, hidden, recent, memory, num_seen)
        block = self.blocks[layer]
        attended = block.attention(hidden, recent, self.content_bias, self.position_bias, num_seen)
        query = hidden if self.config.memory.own_query else attended.query
        read, memory, reading = self.long_term_memories[layer](
            query, None, memory, projections=self.shared_projections(layer)
        )
        auxiliary_loss = self.config.memory.kl_weight * reading.kl.mean()
        return LayerOutput(block(hidden, attended.output + read), memory, auxiliary_loss)
