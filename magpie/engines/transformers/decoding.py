"""Decoding many rows at once with a transformers model: a batch that rows join and leave, grammars, the draw.

`is_repeating` finds a row that repeats itself without end.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar


@dataclass(slots=True, eq=False, kw_only=True)
class Row:
    """An unfinished text: its tokens, prompt included, and how the next one is drawn.

    `generator` is the row's own torch.Generator, on the CPU. Temperature 0 is greedy; top_k 0 and min_p 0 are off.
    `presence_penalty` is taken from the logits of the tokens that stand behind the prompt, which has `prompt_length`.
    """

    tokens: list[int]
    generator: Any
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    prompt_length: int = 0


R = TypeVar("R", bound=Row)


class Batch(Generic[R]):
    """Rows decoded together: their key-value cache, and its attention mask (rows, width), 1 at real tokens.

    Rows are padded on the left, so that all of them write their next token into the same column. Between two steps each
    row's newest token is not yet in the cache.
    """

    def __init__(self, rows: Sequence[R] = ()) -> None:
        self.rows = list(rows)
        self.cache: Any = None
        self.mask: Any = None

    @property
    def joinable(self) -> bool:
        """Whether other rows can join: every layer caches plain keys and values, all of them or a sliding window."""
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        # The exact types: a subclass may keep its keys in another form, quantized ones for example.
        return all(type(layer) in {DynamicLayer, DynamicSlidingWindowLayer} for layer in self.cache.layers)

    def prefill(self, network: Any) -> Any:
        """Logits (rows, vocabulary), float32, after each row's tokens. Starts the cache."""
        import torch
        from transformers import DynamicCache

        device = network.device
        tokens = [tuple(row.tokens) for row in self.rows]
        # Equal prompts are computed once: all rows of the first step have the same one.
        place = {ids: at for at, ids in enumerate(dict.fromkeys(tokens))}
        width = max(map(len, place))
        padded = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in place], device=device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in place], device=device)
        self.cache = DynamicCache(config=network.config.get_text_config(decoder=True))
        # Positions count real tokens only: a padded row is computed as it would be alone.
        logits = _forward(network, padded, mask, (mask.cumsum(-1) - 1).clamp(min=0), self.cache)
        prompt_of_row = torch.tensor([place[ids] for ids in tokens], device=device)
        if len(place) < len(tokens):
            self.cache.reorder_cache(prompt_of_row)  # which copies: one prompt's cache for each of its rows
        self.mask = mask[prompt_of_row]
        return logits[prompt_of_row]

    def step(self, network: Any) -> Any:
        """Logits after each row's newest token, which enters the cache."""
        import torch

        newest = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self.mask.device)
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        return _forward(network, newest, self.mask, self.mask.sum(-1, keepdim=True) - 1, self.cache)

    def keep(self, at: list[int]) -> None:
        """Drop all rows but those at positions `at`, and the columns that then hold only padding."""
        import torch

        if len(at) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in at]
        if not at:
            return
        kept = torch.tensor(at, device=self.mask.device)
        self.cache.reorder_cache(kept)
        self.mask = self.mask[kept]
        # The longest row may be gone. Without this the cache would stay as wide as the longest row it ever held.
        if self.joinable:
            first_used = int(self.mask.any(0).int().argmax())
            self._widen(-first_used)

    def join(self, other: Batch[R]) -> None:
        """Take in the rows of `other`; the shorter of the two caches is padded on the left."""
        import torch

        width = max(self.mask.shape[1], other.mask.shape[1])
        for batch in (self, other):
            batch._widen(width - batch.mask.shape[1])
        for layer, other_layer in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.keys = torch.cat([layer.keys, other_layer.keys])
            layer.values = torch.cat([layer.values, other_layer.values])
        self.mask = torch.cat([self.mask, other.mask])
        self.rows += other.rows

    def _widen(self, by: int) -> None:
        """Add `by` columns of padding on the left, or remove that many when it is negative."""
        from torch.nn.functional import pad

        if by == 0:
            return
        self.mask = pad(self.mask, (by, 0))
        for layer in self.cache.layers:
            change = by
            if layer.is_sliding:
                # Such a layer keeps only its last window - 1 columns, and counts in `cumulative_length` all it has
                # seen. Both must stay in step with the mask, so the padding counts, and is kept as far as it fits.
                layer.cumulative_length += by
                change = min(layer.cumulative_length, layer.sliding_window - 1) - layer.keys.shape[2]
            # Keys and values are (rows, heads, columns, size): `pad` counts dimensions from the last.
            layer.keys = pad(layer.keys, (0, 0, change, 0))
            layer.values = pad(layer.values, (0, 0, change, 0))


class Grammars:
    """JSON schemas as masks over the vocabulary, by xgrammar. Each schema is compiled once."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._compiler: Any = None
        self._compiled: dict[str, Any] = {}

    def matcher(self, schema: str, stop_ids: Iterable[int]) -> Any:
        """A matcher that follows one row through `schema`, until one of `stop_ids`. RuntimeError for a bad schema."""
        import xgrammar

        if self._compiler is None:
            # The size of the logits, which some models pad beyond the tokenizer's vocabulary.
            vocabulary = xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=self._vocabulary)
            self._compiler = xgrammar.GrammarCompiler(vocabulary)
        if schema not in self._compiled:
            # With free whitespace, a small model may write blanks until its tokens are spent.
            self._compiled[schema] = self._compiler.compile_json_schema(schema, any_whitespace=False)
        return xgrammar.GrammarMatcher(self._compiled[schema], override_stop_tokens=list(stop_ids))

    def restrict(self, logits: Any, matchers: Sequence[Any]) -> None:
        """Set the logits that a row's matcher forbids to minus infinity, in place; None leaves a row free."""
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

    This is vLLM's rule (`RepetitionDetectionParams`). As in vLLM, it is checked after every token.
    """
    shortest, longest = unit
    for size in range(shortest, min(longest, len(tokens) // times) + 1):
        # One comparison rules out most sizes before two slices are copied.
        if tokens[-1] == tokens[-1 - size]:
            # A text whose tail equals itself moved by `size` repeats with that period.
            end = len(tokens) - size
            if tokens[-times * size : end] == tokens[size - times * size :]:
                return True
    return False


def penalize(logits: Any, rows: Sequence[Row]) -> None:
    """Take each row's presence penalty from the logits of what it has written, in place."""
    for at, row in enumerate(rows):
        if row.presence_penalty and len(row.tokens) > row.prompt_length:
            logits[at, list(set(row.tokens[row.prompt_length :]))] -= row.presence_penalty


def draw(logits: Any, rows: Sequence[Row]) -> list[int]:
    """One token for each row of `logits` (rows, vocabulary), float32, by the row's settings and its generator.

    Temperature first, then min_p, top_k and top_p, in vLLM's order; temperature 0 takes the largest logit.
    """
    import torch

    tokens = logits.argmax(-1)
    at = [i for i, row in enumerate(rows) if row.temperature > 0]
    if not at:
        return [int(token) for token in tokens.tolist()]
    sampled = [rows[i] for i in at]
    options = {"dtype": torch.float32, "device": logits.device}
    scaled = logits[at] / torch.tensor([[row.temperature] for row in sampled], **options)
    if any(row.min_p > 0 for row in sampled):
        # In logits: a chance of min_p times the best one's. The logarithm of 0 is minus infinity, which is off.
        least = torch.tensor([[row.min_p] for row in sampled], **options).log() + scaled.amax(
            -1, keepdim=True
        )
        scaled = scaled.masked_fill(scaled < least, float("-inf"))
    for i, row in enumerate(sampled):
        if 0 < row.top_k < scaled.shape[-1]:
            scaled[i].masked_fill_(scaled[i] < scaled[i].topk(row.top_k).values[-1], float("-inf"))
    chances = scaled.softmax(-1)
    narrow = [i for i, row in enumerate(sampled) if row.top_p < 1]
    if narrow:
        # A token stays when those above it add up to less than top_p: the one that reaches it stays, too.
        falling, order = chances[narrow].sort(-1, descending=True)
        share = torch.tensor([[sampled[i].top_p] for i in narrow], **options)
        falling[falling.cumsum(-1) - falling >= share] = 0
        chances[narrow] = torch.zeros_like(falling).scatter_(-1, order, falling)
    # One uniform number for each token, from the row's own generator on the CPU: what a row draws depends neither on
    # the rows beside it nor on the device's generator. It picks the token in whose stretch of the cumulative chances it
    # falls. The chances need not add up to 1 after the cuts, so the number is scaled to their sum.
    mass = chances.cumsum(-1)
    uniform = torch.cat([torch.rand(1, 1, generator=row.generator) for row in sampled]).to(logits.device)
    # To the right of equal sums, so that no token of chance 0 is drawn; the clamp is for rounding at the upper end.
    drawn = torch.searchsorted(mass, uniform * mass[:, -1:], right=True).clamp(max=mass.shape[-1] - 1)
    tokens[at] = drawn.squeeze(-1)
    return [int(token) for token in tokens.tolist()]


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may succeed where this one failed."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On a CPU and on an Apple GPU, PyTorch raises a plain RuntimeError.
    phrases = ("out of memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)


def _forward(network: Any, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
    """One forward pass; the logits after the last column, float32."""
    # Logits of every prompt token would take vocabulary x tokens of memory. Models with code of their own may not have
    # the parameter that leaves them out.
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(network.forward).parameters else {}
    arguments = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
    return network(input_ids=ids, use_cache=True, **arguments, **last).logits[:, -1].float()
