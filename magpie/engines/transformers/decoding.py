"""Decoding many rows at once with a transformers model: a batch that rows leave and join, grammars, the draw.

`is_repeating` sees a row that goes in circles.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar


@dataclass(slots=True, eq=False, kw_only=True)
class Row:
    """A text under way: its tokens, prompt and all, and how the next one is drawn.

    `generator` is the row's own torch.Generator, on the CPU. Temperature 0 is greedy; top_k 0 and min_p 0 are off.
    """

    tokens: list[int]
    generator: Any
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


R = TypeVar("R", bound=Row)


class Batch(Generic[R]):
    """Rows decoded together: their cache, and the mask (rows x width, 1 at real tokens) over what is in it.

    Between two steps each row's newest token is not yet in the cache.
    """

    def __init__(self, rows: Sequence[R] = ()) -> None:
        self.rows = list(rows)
        self.cache: Any = None
        self.mask: Any = None

    @property
    def joinable(self) -> bool:
        """Whether other rows can be joined: every layer keeps plain keys and values, all or a window of them."""
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        return all(type(layer) in {DynamicLayer, DynamicSlidingWindowLayer} for layer in self.cache.layers)

    def prefill(self, network: Any) -> Any:
        """Logits (rows x vocabulary, float32) after each row's tokens. Equal prompts are computed once."""
        import torch
        from transformers import DynamicCache

        device = network.device
        tokens = [tuple(row.tokens) for row in self.rows]
        place = {ids: at for at, ids in enumerate(dict.fromkeys(tokens))}
        width = max(map(len, place))
        padded = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in place], device=device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in place], device=device)
        self.cache = DynamicCache(config=network.config.get_text_config(decoder=True))
        logits = _forward(network, padded, mask, (mask.cumsum(-1) - 1).clamp(min=0), self.cache)
        where = torch.tensor([place[ids] for ids in tokens], device=device)
        if len(place) < len(tokens):
            self.cache.reorder_cache(where)
        self.mask = mask[where]
        return logits[where]

    def step(self, network: Any) -> Any:
        """Logits after each row's newest token."""
        import torch

        newest = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self.mask.device)
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        return _forward(network, newest, self.mask, self.mask.sum(-1, keepdim=True) - 1, self.cache)

    def keep(self, at: list[int]) -> None:
        """Let go of all rows but those at positions `at`, and of the columns that only padding is left in."""
        import torch

        if len(at) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in at]
        if not at:
            return
        where = torch.tensor(at, device=self.mask.device)
        self.cache.reorder_cache(where)
        self.mask = self.mask[where]
        if self.joinable:
            self._widen(int(self.mask.any(0).int().argmax()) * -1)

    def join(self, other: Batch[R]) -> None:
        """Take in the rows of `other`; the shorter of the two caches is padded on the left."""
        import torch

        width = max(self.mask.shape[1], other.mask.shape[1])
        for batch in (self, other):
            batch._widen(width - batch.mask.shape[1])
        for mine, new in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([mine.keys, new.keys])
            mine.values = torch.cat([mine.values, new.values])
        self.mask = torch.cat([self.mask, other.mask])
        self.rows += other.rows

    def _widen(self, by: int) -> None:
        """Add `by` columns of padding on the left, or take away that many when it is negative."""
        from torch.nn.functional import pad

        if by == 0:
            return
        self.mask = pad(self.mask, (by, 0))
        for layer in self.cache.layers:
            change = by
            if layer.is_sliding:
                layer.cumulative_length += by
                change = min(layer.cumulative_length, layer.sliding_window - 1) - layer.keys.shape[2]
            layer.keys = pad(layer.keys, (0, 0, change, 0))
            layer.values = pad(layer.values, (0, 0, change, 0))


class Grammars:
    """JSON schemas as masks over the vocabulary, compiled once each, by xgrammar."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._compiler: Any = None
        self._compiled: dict[str, Any] = {}

    def matcher(self, schema: str, stop_ids: Iterable[int]) -> Any:
        """Follows one row through `schema`; one of `stop_ids` ends it. Raises RuntimeError for a bad schema."""
        import xgrammar

        if self._compiler is None:
            known = xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=self._vocabulary)
            self._compiler = xgrammar.GrammarCompiler(known)
        if schema not in self._compiled:
            # free whitespace would let a small model write blanks until its tokens are spent
            self._compiled[schema] = self._compiler.compile_json_schema(schema, any_whitespace=False)
        return xgrammar.GrammarMatcher(self._compiled[schema], override_stop_tokens=list(stop_ids))

    def restrict(self, logits: Any, matchers: Sequence[Any]) -> None:
        """Set the logits a row's matcher does not allow to minus infinity, in place; None leaves a row free."""
        at = [i for i, matcher in enumerate(matchers) if matcher is not None]
        if not at:
            return
        import xgrammar

        allowed = xgrammar.allocate_token_bitmask(len(matchers), logits.shape[-1])
        for i in at:
            matchers[i].fill_next_token_bitmask(allowed, i)
        xgrammar.apply_token_bitmask_inplace(logits, allowed.to(logits.device), indices=at)


def is_repeating(tokens: Sequence[int], *, unit: tuple[int, int], times: int) -> bool:
    """Whether `tokens` end in the same `unit[0]` to `unit[1]` tokens, `times` times back to back.

    This is vLLM's own rule (its `RepetitionDetectionParams`), and as there it is looked at after every token.
    """
    shortest, longest = unit
    for size in range(shortest, min(longest, len(tokens) // times) + 1):
        if tokens[-1] == tokens[-1 - size]:
            end = len(tokens) - size
            if tokens[-times * size : end] == tokens[size - times * size :]:
                return True
    return False


def draw(logits: Any, rows: Sequence[Row]) -> list[int]:
    """One token for each row of `logits` (rows x vocabulary, float32), by the row's `sampling` and `generator`.

    Temperature first, then min_p, top_k and top_p, in the order vLLM applies them; temperature 0 is the largest
    logit. A row takes one uniform number from its generator for a token, and the token whose stretch of the
    cumulative probability it falls in.
    """
    import torch

    best = logits.argmax(-1)
    at = [i for i, row in enumerate(rows) if row.temperature > 0]
    if not at:
        return [int(token) for token in best.tolist()]
    warm = [rows[i] for i in at]
    column = {"dtype": torch.float32, "device": logits.device}
    scaled = logits[at] / torch.tensor([[s.temperature] for s in warm], **column)
    if any(s.min_p > 0 for s in warm):
        least = torch.tensor([[s.min_p] for s in warm], **column).log() + scaled.amax(-1, keepdim=True)
        scaled = scaled.masked_fill(scaled < least, float("-inf"))
    for i, s in enumerate(warm):
        if 0 < s.top_k < scaled.shape[-1]:
            scaled[i].masked_fill_(scaled[i] < scaled[i].topk(s.top_k).values[-1], float("-inf"))
    chances = scaled.softmax(-1)
    narrow = [i for i, s in enumerate(warm) if s.top_p < 1]
    if narrow:
        falling, order = chances[narrow].sort(-1, descending=True)
        share = torch.tensor([[warm[i].top_p] for i in narrow], **column)
        falling[falling.cumsum(-1) - falling >= share] = 0
        chances[narrow] = torch.zeros_like(falling).scatter_(-1, order, falling)
    mass = chances.cumsum(-1)
    uniform = torch.cat([torch.rand(1, 1, generator=rows[i].generator) for i in at]).to(logits.device)
    drawn = torch.searchsorted(mass, uniform * mass[:, -1:], right=True).clamp(max=mass.shape[-1] - 1)
    best[at] = drawn.squeeze(-1)
    return [int(token) for token in best.tolist()]


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may do what this one could not."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and any(said in str(error) for said in ("out of memory", "can't allocate memory"))
    )


def _forward(network: Any, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(network.forward).parameters else {}
    given = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
    return network(input_ids=ids, use_cache=True, **given, **last).logits[:, -1].float()
