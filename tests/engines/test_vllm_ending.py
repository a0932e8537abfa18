"""What is said of a process of vLLM's that ended, also where vLLM's own monitor took its exit code first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from typing import Any

import pytest

from magpie.engines.vllm.endings import _ending

SPAWN = multiprocessing.get_context("spawn")


def ended(target: Any, *arguments: Any) -> Any:
    process = SPAWN.Process(target=target, args=arguments, name="EngineCore")
    process.start()
    multiprocessing.connection.wait([process.sentinel])
    return process


def test_a_signal_or_a_code_is_named() -> None:
    killed = SPAWN.Process(target=time.sleep, args=(60,), name="EngineCore")
    killed.start()
    killed.kill()
    multiprocessing.connection.wait([killed.sentinel])
    killed.join()
    assert _ending([killed]) == (
        "its process EngineCore ended by SIGKILL, as the kernel does when memory is short"
    )
    left = ended(sys.exit, 3)
    left.join()
    assert _ending([left]) == "its process EngineCore ended with code 3"


@pytest.mark.parametrize("take", ["waited for elsewhere", "closed"])
def test_an_exit_code_that_another_took_is_not_made_up(take: str) -> None:
    process = ended(sys.exit, 0)
    if take == "closed":
        process.join()
        process.close()
    else:
        os.waitpid(process.pid, 0)
    assert _ending([process]) == "its process EngineCore ended"


def test_a_signal_without_a_name_is_a_number() -> None:
    process = SPAWN.Process(target=time.sleep, args=(60,), name="EngineCore")
    process.start()
    os.kill(process.pid or 0, signal.SIGRTMIN + 3)
    process.join()
    assert _ending([process]) == f"its process EngineCore ended by signal {signal.SIGRTMIN + 3}"
