"""Control of a completion's first token: some ids are not drawn, and its logits are divided.

`change` does that to one row of logits, in any engine. In vLLM a logits processor calls it: a class that vLLM imports
by name in the process that samples. vLLM has two interfaces for such classes: `VLLM[False]` names the one for its V1
model runner, `VLLM[True]` the one for V2, which vLLM uses wherever Triton is installed. `extra_args` makes what a
request sets in `SamplingParams.extra_args`. Other requests, and all tokens but the first, are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

VLLM: Final = {False: "magpie.engines.first_token:ForV1", True: "magpie.engines.first_token:ForV2"}

_KEY: Final = "magpie_first_token"


def change(logits: Any, *, hold_back: Sequence[int], divisor: float) -> None:
    """Change one row of logits, float32, in place: minus infinity at `hold_back`, the rest divided by `divisor`.

    Ids beyond the vocabulary are ignored. Where a schema allows only ids of `hold_back`, none is held back.
    """
    import torch

    # `torch.where` and no `if`: reading the condition in Python would make the CPU wait for the GPU.
    kept = logits.index_fill(0, _tensor(tuple(hold_back), len(logits), logits.device), float("-inf"))
    logits.copy_(torch.where(kept.isneginf().all(), logits, kept).div_(divisor))


def extra_args(*, hold_back: Sequence[int], divisor: float) -> dict[str, Any] | None:
    """The value of `SamplingParams.extra_args`; None where the first token is like any other."""
    if not hold_back and divisor == 1:
        return None
    return {_KEY: {"hold_back": list(hold_back), "divisor": divisor}}


def __getattr__(name: str) -> Any:
    """The classes that `VLLM` names."""
    # Made when vLLM asks for one: they derive from classes of vLLM, which is not imported before.
    if name in {"ForV1", "ForV2"}:
        return _for_v1() if name == "ForV1" else _for_v2()
    raise AttributeError(f"module 'magpie.engines.first_token' has no attribute {name!r}")


@lru_cache(maxsize=64)
def _tensor(ids: tuple[int, ...], vocabulary: int, device: Any) -> Any:
    """The ids as a tensor, cached."""
    # Every row of a build holds back the same ids, and a GPU waits for each new tensor.
    import torch

    return torch.tensor([i for i in ids if 0 <= i < vocabulary], dtype=torch.int64, device=device)


def _settings(params: Any) -> Mapping[str, Any] | None:
    return (params.extra_args or {}).get(_KEY)


@lru_cache
def _for_v1() -> type:
    from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

    class ForV1(LogitsProcessor):  # type: ignore[misc]
        """A request is known by its index in the batch. Its first token is next while it has drawn none."""

        def __init__(self, *_: Any) -> None:
            # By index: the settings, and vLLM's own list of drawn tokens, which it appends to.
            self._waiting: dict[int, tuple[Mapping[str, Any], list[int]]] = {}

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            if batch_update is not None:
                process_dict_updates(self._waiting, batch_update, _new_request)
            if self._waiting:
                self._waiting = {at: waiting for at, waiting in self._waiting.items() if not waiting[1]}

        def apply(self, logits: Any) -> Any:
            for at, (settings, _) in self._waiting.items():
                change(logits[at], **settings)
            return logits

    def _new_request(params: Any, _: Any, drawn: list[int]) -> tuple[Mapping[str, Any], list[int]] | None:
        settings = _settings(params)
        # A request that was preempted and comes back may have drawn tokens already.
        return None if settings is None or drawn else (settings, drawn)

    return ForV1


@lru_cache
def _for_v2() -> type:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

    class ForV2(LogitsProcessor):  # type: ignore[misc]
        """A request is known by its slot. Its first token is next when it has exactly as many tokens as its prompt."""

        def __init__(self, _: Any, requests: Any) -> None:
            self._prompt_lengths = requests.prompt_len.np
            self._waiting: dict[int, Mapping[str, Any]] = {}

        def add_request(self, req_idx: int, sampling_params: Any) -> bool:
            # The slot's last request may have ended before its first token.
            self._waiting.pop(req_idx, None)
            settings = _settings(sampling_params)
            if settings is not None:
                self._waiting[req_idx] = settings
            return settings is not None

        def apply(self, logits: Any, ctx: Any) -> Any:
            if not self._waiting:
                return logits
            # Row `at` of the logits is one request: without speculative decoding each has one row.
            for at, slot in enumerate(ctx.idx_mapping_np.tolist()):
                length = ctx.seq_lens_upper_bound_np[at]
                # Shorter while the prompt is prefilled in chunks; longer where the first token is drawn already.
                if slot in self._waiting and length >= self._prompt_lengths[slot]:
                    settings = self._waiting.pop(slot)
                    if length == self._prompt_lengths[slot]:
                        change(logits[at], **settings)
            return logits

    return ForV2
