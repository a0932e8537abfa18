"""vLLM, on a GPU or with its CPU build: the engine that writes. `thread.py` is how any vLLM engine is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from magpie.engines import first_token
from magpie.engines.base import Capabilities, Completion, EngineSpec, Sampling, Scorer, misfit
from magpie.engines.vllm.settings import engine_arguments, sampling_params
from magpie.engines.vllm.thread import VllmThread
from magpie.models import ModelFiles
from magpie.recipe import Model


class VllmEngine(VllmThread[Completion]):
    """An Engine on vLLM."""

    async def complete(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """One completion of `prompt`, token ids. Cancelling the call aborts the request."""
        if problem := misfit(len(prompt), self.model.context_length):
            return Completion("", 0, "error", problem)
        return await self._submit(prompt, sampling)

    def _arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        return engine_arguments(self._settings, self._files, on_cpu=on_cpu)

    def _configure(self, config: Any) -> None:
        # Not an argument: which of its two model runners vLLM takes is known only now.
        config.model_config.logits_processors = [first_token.VLLM[config.use_v2_model_runner]]

    def _parameters(self, sampling: Sampling | None) -> Any:
        assert sampling is not None
        return sampling_params(sampling)

    def _read(self, output: Any) -> Completion:
        (written,) = output.outputs
        reason, tokens, cached = written.finish_reason, len(written.token_ids), output.num_cached_tokens
        if reason in {"stop", "length", "repetition"}:
            return Completion(written.text, tokens, reason, cached_tokens=cached)
        return Completion(written.text, tokens, "error", f"vLLM ended the request: {reason}", cached)

    def _refusal(self, reason: str) -> Completion:
        return Completion("", 0, "error", reason)


async def _open_scorer(model: Model, files: ModelFiles) -> Scorer:
    from magpie.engines.vllm.scoring import VllmScorer

    return await VllmScorer.open(model, files)


SPEC = EngineSpec(
    name="vllm",
    capabilities=Capabilities(separate_process=True, chooses_device=False),
    open=VllmEngine.open,
    open_scorer=_open_scorer,
    package="vllm",
    install="install magpie-synth[cpu] or [gpu], or use --engine transformers",
)
