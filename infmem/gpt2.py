"""A Hugging Face GPT-2 with a long-term memory in each block, beside its self-attention (extra `hf`).

Text is read in segments. Each block's memory is read with the vectors that enter its self-attention, and at the end of
the segment it is written with the same vectors. What is read passes a projection that is zero at first, so the model
begins as the GPT-2 that it was made from, to the last bit; so does one that shares the projections of self-attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from infmem.config import from_dict, to_dict
from infmem.memory import LongTermMemory, MemoryConfig, MemoryState, Projections
from infmem.validation import require

try:
    from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
    from transformers import initialization as init
    from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Model
except ImportError as error:
    raise ImportError(f"infmem.gpt2 needs the package transformers: pip install 'infmem[hf]' ({error})") from error

Memories = tuple[MemoryState, ...]


class InfiniteGPT2Config(GPT2Config):
    """A GPT-2 with a long-term memory.

    Args:
        segment_length: positions that are read together, at most `n_positions`.
        memory: the fields of a `MemoryConfig`, all of them; None is that of `MemoryConfig.best` with 512 functions.
    """

    model_type = "infinite-gpt2"
    __no_type_check__ = True  # its base takes more than the fields, whatever a file has

    segment_length: int = 512
    memory: dict | None = None

    @property
    def memory_config(self) -> MemoryConfig:
        """The memory's configuration."""
        return MemoryConfig.best() if self.memory is None else from_dict(MemoryConfig, self.memory)


@dataclass
class Pass:
    """What goes along with one segment through all blocks.

    Args:
        states: of each block's memory, as the segment finds them.
        entered: what each block's memory will be written with; filled on the way.
        regularizer: sum of the densities' regularisers; filled on the way.
    """

    states: Memories
    entered: list[Tensor] = field(default_factory=list)
    found: list[MemoryState] = field(default_factory=list)
    regularizer: Tensor = field(default_factory=lambda: torch.zeros(()))


class InfiniteGPT2Attention(GPT2Attention):
    """Self-attention, and beside it a read of the long-term memory; both are added to the residual stream.

    Args:
        config: of the model.
        layer_idx: which block.
    """

    def __init__(self, config: InfiniteGPT2Config, layer_idx: int):
        super().__init__(config, layer_idx=layer_idx)
        self.long_term = LongTermMemory(config.n_embd, config.n_head, config.memory_config)
        for linear in (part for part in self.long_term.children() if isinstance(part, nn.Linear)):
            linear.initial_std = linear.weight.shape[1] ** -0.5
        if self.long_term.out is not None:
            self.long_term.out.initial_std = 0.0

    def forward(self, hidden_states: Tensor, *args, reading: Pass | None = None, **kwargs) -> tuple:
        """As GPT-2's, plus what the memory gives; `reading` carries it."""
        output, *others = super().forward(hidden_states, *args, **kwargs)
        if reading is not None:
            state, config = reading.states[self.layer_idx], self.long_term.config
            reading.entered.append(hidden_states.detach())
            if bool(state.num_tokens.any()):
                query = hidden_states if config.own_query else self._query(hidden_states)
                read, state, about = self.long_term(query, None, state, projections=self._shared_projections())
                output = output + self.resid_dropout(read).to(output.dtype)
                reading.regularizer = reading.regularizer + config.kl_weight * about.kl.mean()
            reading.found.append(state)
        return output, *others

    def _shared_projections(self) -> Projections | None:
        if self.long_term.config.projections == "own":
            return None
        _, key, value = self.c_attn.weight.T.chunk(3)
        return Projections(key, value, self.c_proj.weight.T)

    def _query(self, hidden_states: Tensor) -> Tensor:
        return self.c_attn(hidden_states).split(self.split_size, dim=2)[0]


class InfiniteGPT2Model(GPT2Model):
    """GPT-2's blocks with a long-term memory in each.

    Args:
        config: of the model.
    """

    config_class = InfiniteGPT2Config

    def __init__(self, config: InfiniteGPT2Config):
        super().__init__(config)
        for layer, block in enumerate(self.h):
            block.attn = InfiniteGPT2Attention(config, layer_idx=layer)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if hasattr(module, "initial_std"):
            init.normal_(module.weight, std=module.initial_std)
        if isinstance(module, LongTermMemory) and module.head_scale is not None:
            init.zeros_(module.head_scale)


@dataclass
class InfiniteGPT2Output(CausalLMOutputWithCrossAttentions):
    """As GPT-2's output, and the memory after the segment.

    Args:
        memory: of each block; None if none was asked for.
        regularizer: of the densities, to be added to a loss; a part of `loss` already.
    """

    memory: Memories | None = None
    regularizer: Tensor | None = None


class InfiniteGPT2(GPT2LMHeadModel):
    r"""GPT-2 whose blocks read a long-term memory of all segments before.

    Equation:
        $h' = h + \mathrm{SelfAttention}(\mathrm{LN}(h)) + Z_{LTM}(\mathrm{LN}(h))$, then GPT-2's feed-forward.

    Args:
        config: of model and memory.

    Source: Martins et al. 2022 (arXiv 2109.00301), section on fine-tuning a pre-trained language model.

    Differs from the paper: the output projection is zero at first; the memory is written with what enters the
        self-attention, normalised; it is emptied when the caller says so (`reset`), never by itself.

    Example:
        >>> config = InfiniteGPT2Config(vocab_size=31, n_positions=8, n_embd=12, n_layer=2, n_head=3, segment_length=8)
        >>> model, memory = InfiniteGPT2(config).eval(), None
        >>> for segment in torch.zeros(3, 2, 8, dtype=torch.int64):
        ...     output = model(segment, memory=memory)
        ...     memory = output.memory
        >>> output.logits.shape, memory[0].num_tokens
        (torch.Size([2, 8, 31]), tensor([24, 24]))
    """

    config_class = InfiniteGPT2Config

    def __init__(self, config: InfiniteGPT2Config):
        require(
            1 <= config.segment_length <= config.n_positions,
            f"segment_length must be from 1 to n_positions ({config.n_positions}), got {config.segment_length}",
        )
        super().__init__(config)
        self.loss_type = "ForCausalLM"
        self.transformer = InfiniteGPT2Model(config)
        self.post_init()

    @classmethod
    def from_gpt2(
        cls, base: GPT2LMHeadModel, memory: MemoryConfig | None = None, segment_length: int = 512
    ) -> "InfiniteGPT2":
        """A GPT-2 with an empty long-term memory that says nothing yet.

        Args:
            base: a GPT-2 of Hugging Face, such as `GPT2LMHeadModel.from_pretrained("gpt2")`.
            memory: of each block.
            segment_length: positions that are read together.
        """
        entries = {name: value for name, value in base.config.to_dict().items() if name != "model_type"}
        memory = MemoryConfig.best() if memory is None else memory
        model = cls(InfiniteGPT2Config(**entries, segment_length=segment_length, memory=to_dict(memory)))
        missing, unknown = model.load_state_dict(base.state_dict(), strict=False)
        require(
            not unknown and all(".long_term." in name for name in missing),
            f"base must be a GPT-2 of Hugging Face, got {type(base).__name__}, which lacks {missing} or has {unknown}",
        )
        return model.train(base.training)

    def empty(self, batch: int) -> Memories:
        """The memory before the first segment.

        Args:
            batch: number of rows.
        """
        return tuple(block.attn.long_term.empty(batch) for block in self.transformer.h)

    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        memory: Memories | None = None,
        update_memory: bool = True,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> InfiniteGPT2Output:
        """Read one segment.

        Args:
            input_ids: the segment.
            memory: of the segment before, or None at the start.
            update_memory: write the segment behind the memory; without, the output's memory is the one that came.
            generator: randomness of a sticky memory.
            **kwargs: as GPT-2's.

        Raises:
            ValueError: if the memory is of another batch or model.
        """
        inputs = input_ids if input_ids is not None else kwargs.get("inputs_embeds")
        require(inputs is not None, "input_ids or inputs_embeds must be given, got neither")
        memory = self.empty(len(inputs)) if memory is None else memory
        require(
            len(memory) == self.config.n_layer,
            f"memory must hold {self.config.n_layer} states, one a block, got {len(memory)}: take the last output's",
        )
        reading = Pass(memory, regularizer=torch.zeros((), device=inputs.device))
        output = super().forward(input_ids, reading=reading, **{**kwargs, "return_dict": True})
        written = self._written(reading, generator) if update_memory else memory
        loss = None if output.loss is None else output.loss + reading.regularizer
        return InfiniteGPT2Output(**{**output, "loss": loss}, memory=written, regularizer=reading.regularizer)

    def _written(self, reading: Pass, generator: torch.Generator | None) -> Memories:
        """The memory with the segment behind it, without a graph."""
        with torch.no_grad():
            return tuple(
                block.attn.long_term.write(entered, state, generator=generator).detach()
                for block, entered, state in zip(self.transformer.h, reading.entered, reading.found, strict=True)
            )

    @torch.no_grad()
    def memorize(
        self, input_ids: Int[Tensor, "batch pos"], memory: Memories | None = None
    ) -> tuple[Memories, Int[Tensor, "batch rest"]]:
        """Write all whole segments of a text but the last, which stays with the rest that is not full yet.

        Args:
            input_ids: the text, at least one token.
            memory: of what was read before, or None.

        Returns:
            The memory, and the tokens that are left: from 1 to `segment_length`.
        """
        length = self.config.segment_length
        memory = self.empty(len(input_ids)) if memory is None else memory
        num_whole = max(0, input_ids.shape[1] - 1) // length
        for segment in input_ids[:, : num_whole * length].split(length, dim=1) if num_whole else ():
            memory = self(segment, memory=memory, use_cache=False, logits_to_keep=1).memory
        return memory, input_ids[:, num_whole * length :]

    @torch.no_grad()
    def generate(
        self,
        inputs: Int[Tensor, "batch pos"],
        *,
        max_new_tokens: int = 20,
        memory: Memories | None = None,
        **kwargs: Any,
    ) -> Int[Tensor, "batch longer"]:
        """Continue a text of any length: whatever fills a segment enters the memory, and the next segment goes on.

        Args:
            inputs: the text so far, at least one token, all rows of one length.
            max_new_tokens: how many to add.
            memory: of what was read before the text, or None.
            **kwargs: as GPT-2's `generate`, but one result for each row: no beams.

        Raises:
            ValueError: if beams or several results are asked for, or there is no text.
        """
        require(inputs.ndim == 2 and inputs.shape[1] >= 1, "inputs must hold at least one token of each row")
        require(max_new_tokens >= 0, f"max_new_tokens must be >= 0, got {max_new_tokens}")
        mask = kwargs.pop("attention_mask", None)
        require(mask is None or bool(mask.all()), "all rows must be of one length: the memory knows no padding")
        for name in ("num_beams", "num_return_sequences"):
            require(kwargs.get(name, 1) == 1, f"{name} must be 1, got {kwargs.get(name)}: each row has one memory")
        text, length = inputs, self.config.segment_length
        memory, rest = self.memorize(inputs, memory)
        while (wanted := max_new_tokens - (text.shape[1] - inputs.shape[1])) > 0:
            count = min(wanted, length - rest.shape[1] + 1)
            given = super().generate(
                rest,
                attention_mask=torch.ones_like(rest),
                max_new_tokens=count,
                memory=memory,
                update_memory=False,
                **kwargs,
            )
            text = torch.cat([text, given[:, rest.shape[1] :]], dim=1)
            if given.shape[1] < rest.shape[1] + count:  # every row has come to an end
                break
            memory, rest = self.memorize(given, memory)
        return text


def reset(memory: Sequence[MemoryState], rows: Bool[Tensor, " batch"]) -> Memories:
    """Empty the memory of some rows and leave the others alone: for documents that end at different times.

    Args:
        memory: of each block.
        rows: True where a row begins anew.
    """
    return tuple(state.reset(rows) for state in memory)


AutoConfig.register("infinite-gpt2", InfiniteGPT2Config)
AutoModelForCausalLM.register(InfiniteGPT2Config, InfiniteGPT2)
