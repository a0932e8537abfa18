"""What is said of a process of vLLM's that ended, also where vLLM's own monitor took its exit code first."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from magpie.engines.vllm.endings import ProcessWatch, _ending, load_error
from magpie.engines.vllm.quiet import Said, silence_stderr
from magpie.execution.runner import half_the_slots

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
    assert _ending([process]) is None


def test_a_signal_without_a_name_is_a_number() -> None:
    process = SPAWN.Process(target=time.sleep, args=(60,), name="EngineCore")
    process.start()
    os.kill(process.pid or 0, signal.SIGRTMIN + 3)
    process.join()
    assert _ending([process]) == f"its process EngineCore ended by signal {signal.SIGRTMIN + 3}"


SAID = """\
(EngineCore pid=7) Process EngineCore:
(EngineCore pid=7) ERROR 11-27 03:10:00 [core.py:1036] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-27 03:10:00 [core.py:1036] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-27 03:10:00 [core.py:1036] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_what_a_process_died_of_is_in_what_it_said() -> None:
    said = Said()
    assert said.reason() is None
    with silence_stderr(said):
        subprocess.run([sys.executable, "-c", f"import sys; sys.stderr.write({SAID!r})"], check=True)
    assert said.reason() == "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB."
    watch = ProcessWatch(lambda: False, lambda _: None, said)
    error = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
    found = load_error("m", watch.told(error), 700)
    assert "out of memory" in str(found) and "smaller `context_length`" in str(found)
    # Half of what was tried, whatever the recipe says.
    assert half_the_slots(pickle.loads(pickle.dumps(found)), None, 64) == 350
