"""Reward models on vLLM, which packs conversations of all lengths into one pass without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from magpie.engines.base import Sampling, Score, oversize, reward_padding, without_padding
from magpie.engines.vllm.settings import scorer_arguments
from magpie.engines.vllm.thread import VllmThread
from magpie.models import ModelFiles
from magpie.recipe import Model


class VllmScorer(VllmThread[Score]):
    """A Scorer on vLLM's pooling runner: a sequence-classification model with one label."""

    def __init__(self, model: Model, files: ModelFiles) -> None:
        self._padding = reward_padding(files, trust_remote_code=model.trust_remote_code)
        super().__init__(model, files)

    async def score(self, conversation: Sequence[int]) -> Score:
        """The raw logit of one conversation. Cancelling the call aborts the request."""
        tokens = without_padding(conversation, self._padding)
        if problem := oversize(len(tokens), self.model.context_length):
            return Score(None, problem)
        return await self._submit(tokens)

    def _arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        return scorer_arguments(self._settings, self._files, on_cpu=on_cpu)

    def _parameters(self, sampling: Sampling | None) -> Any:
        from vllm import PoolingParams

        return PoolingParams(task="classify", use_activation=False)

    def _read(self, output: Any) -> Score:
        return Score(float(output.outputs.data.reshape(-1)[0]))

    def _refusal(self, reason: str) -> Score:
        return Score(None, reason)
