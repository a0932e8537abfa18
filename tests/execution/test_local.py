"""The executor of this process: an engine short of memory is loaded smaller, and a build that is stopped drains."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from builds import small_recipe, tree

from magpie.build import build
from magpie.engines import open_engine
from magpie.engines.base import Engine
from magpie.errors import EngineError, StoppedError
from magpie.execution.local import LocalExecutor
from magpie.execution.signals import Stoppable
from magpie.recipe import Model


def hungry(most: int) -> LocalExecutor:
    """An executor whose engines have memory for so many slots."""

    async def opened(model: Model) -> Engine:
        if (model.slots or 512) > most:
            raise EngineError("vLLM could not load m: CUDA out of memory")
        return await open_engine(model)

    return LocalExecutor(opened)


def test_an_engine_short_of_memory_is_loaded_with_half_the_slots(tmp_path: Path) -> None:
    build(small_recipe(), tmp_path / "whole", executor="local")
    executor = hungry(128)
    build(small_recipe(), tmp_path / "run", executor=executor)
    asyncio.run(executor.close())
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert "again with 256 slots" in log and "again with 128 slots" in log and "again with 64" not in log


def test_one_that_never_has_memory_enough_ends_the_build(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="out of memory"):
        build(small_recipe(), tmp_path / "run", executor=hungry(0))


class Stopping:
    """The engine; at its first completion the build is told to stop, as Slurm does it, or a terminal that closes."""

    def __init__(self, engine: Engine, *signals: signal.Signals) -> None:
        self._engine, self._signals = engine, list(signals)
        self.model = engine.model

    async def complete(self, prompt: object, sampling: object) -> object:
        while self._signals:
            os.kill(os.getpid(), self._signals.pop())
        await asyncio.sleep(0.2)
        return await self._engine.complete(prompt, sampling)  # type: ignore[arg-type]

    async def close(self) -> None:
        await self._engine.close()


@pytest.mark.parametrize(
    ("number", "times", "grace"),
    [(signal.SIGUSR1, 1, 60), (signal.SIGHUP, 2, 60), (signal.SIGUSR1, 1, 0), (signal.SIGUSR1, 2, 60)],
)
def test_shards_in_flight_are_finished_within_the_time_of_grace(
    tmp_path: Path, number: signal.Signals, times: int, grace: int
) -> None:
    """With some seconds the shards that were begun are committed, and no other begins; without, none is.

    A terminal that closes says so twice. Any other signal that comes twice is of somebody who will not wait.
    """

    async def opened(model: Model) -> Engine:
        small = model.model_copy(update={"script": model.script.model_copy(update={"slots": 16})})
        return Stopping(await open_engine(small), *[number] * times)  # type: ignore[return-value]

    with pytest.raises(StoppedError, match=number.name):
        build(small_recipe(), tmp_path / "run", executor=LocalExecutor(opened), grace=grace)
    made = len(list((tmp_path / "run" / "steps" / "01-instruct").glob("*.parquet")))
    may_go_on = grace and (times == 1 or number == signal.SIGHUP)
    assert (0 < made < 6) if may_go_on else made == 0
    build(small_recipe(), tmp_path / "run", executor="local")
    build(small_recipe(), tmp_path / "whole", executor="local")
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_a_signal_that_is_ignored_stays_so() -> None:
    """`nohup` starts a command with SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stoppable():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
