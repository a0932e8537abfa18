"""The first token of a completion: some ids held back from it, its logits divided.

`change` does it to one row of logits, whichever engine the row is of. vLLM is given it as a logits processor, a class
that the process that samples imports by its name, and has two interfaces for one: `VLLM[False]` names the class for
its V1 model runner and `VLLM[True]` that for V2, which it takes wherever Triton is. A request asks for it through
`SamplingParams.extra_args`, made by `extra_args`; a request that does not is left alone, and so is every token but
the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

VLLM: Final = {False: "magpie.engines.first_token:ForV1", True: "magpie.engines.first_token:ForV2"}

_KEY: Final = "magpie_first_token"


def change(logits: Any, *, hold_back: Sequence[int], divisor: float) -> None:
    """Change one row of logits, float32, in place: minus infinity at `hold_back`, the rest divided.

    Where a schema leaves nothing but what is held back, nothing is. Ids beyond the vocabulary are passed over.
    """
    import torch

    kept = logits.index_fill(0, _tensor(tuple(hold_back), len(logits), logits.device), float("-inf"))
    logits.copy_(torch.where(kept.isneginf().all(), logits, kept).div_(divisor))


def extra_args(*, hold_back: Sequence[int], divisor: float) -> dict[str, Any] | None:
    """What vLLM hands on to the processor; None when the first token is like any other."""
    if not hold_back and divisor == 1:
        return None
    return {_KEY: {"hold_back": list(hold_back), "divisor": divisor}}


def __getattr__(name: str) -> Any:
    """The classes stand on vLLM's, which is imported only where one of them is asked for."""
    if name in {"ForV1", "ForV2"}:
        return _for_v1() if name == "ForV1" else _for_v2()
    raise AttributeError(f"module 'magpie.engines.first_token' has no attribute {name!r}")


@lru_cache(maxsize=64)
def _tensor(ids: tuple[int, ...], vocabulary: int, device: Any) -> Any:
    """Kept, since every row of a build holds back the same ids and a GPU waits for each new tensor."""
    import torch

    return torch.tensor([i for i in ids if 0 <= i < vocabulary], dtype=torch.int64, device=device)


def _asked(params: Any) -> Mapping[str, Any] | None:
    return (params.extra_args or {}).get(_KEY)


@lru_cache
def _for_v1() -> type:
    from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

    class ForV1(LogitsProcessor):  # type: ignore[misc]
        """Knows a request by its place in the batch, and its first token by the list of those drawn, still empty."""

        def __init__(self, *_: Any) -> None:
            self._waiting: dict[int, tuple[Mapping[str, Any], list[int]]] = {}

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            if batch_update is not None:
                process_dict_updates(self._waiting, batch_update, _fresh)
            if self._waiting:
                self._waiting = {at: new for at, new in self._waiting.items() if not new[1]}

        def apply(self, logits: Any) -> Any:
            for at, (asked, _) in self._waiting.items():
                change(logits[at], **asked)
            return logits

    def _fresh(params: Any, _: Any, drawn: list[int]) -> tuple[Mapping[str, Any], list[int]] | None:
        """A request that is put back into the batch after a pause may have its first token."""
        asked = _asked(params)
        return None if asked is None or drawn else (asked, drawn)

    return ForV1


@lru_cache
def _for_v2() -> type:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

    class ForV2(LogitsProcessor):  # type: ignore[misc]
        """Knows a request by its slot, and its first token by the tokens before it, as many as in its prompt.

        A row of logits is a request here, since we decode nothing speculatively.
        """

        def __init__(self, _: Any, requests: Any) -> None:
            self._prompt_lengths = requests.prompt_len.np
            self._waiting: dict[int, Mapping[str, Any]] = {}

        def add_request(self, req_idx: int, sampling_params: Any) -> bool:
            self._waiting.pop(req_idx, None)
            asked = _asked(sampling_params)
            if asked is not None:
                self._waiting[req_idx] = asked
            return asked is not None

        def apply(self, logits: Any, ctx: Any) -> Any:
            if not self._waiting:
                return logits
            for at, slot in enumerate(ctx.idx_mapping_np.tolist()):
                seen = ctx.seq_lens_upper_bound_np[at]
                if slot in self._waiting and seen >= self._prompt_lengths[slot]:
                    asked = self._waiting.pop(slot)
                    if seen == self._prompt_lengths[slot]:
                        change(logits[at], **asked)
            return logits

    return ForV2
