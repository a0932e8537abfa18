"""The installed vLLM as an OpenAI server: `magpie serve`, for the engine `server`.

The server runs the model as the engine does in a build. vLLM's own `vllm serve` is not used: it asks for a package
named vllm, which the CPU build is not.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NoReturn

from magpie import secrets
from magpie.engines.vllm.settings import engine_arguments, prepare_environment
from magpie.errors import EngineError
from magpie.models import ModelFiles
from magpie.recipe import Model

_MODULE = "vllm.entrypoints.openai.api_server"


def check_place(host: str, port: int) -> None:
    """Raises EngineError when there is no vLLM to serve with, or no server can listen there."""
    if find_spec("vllm") is None:
        raise EngineError("vLLM is not installed; install it, or let another server serve the model")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise EngineError(
            f"no server can listen at {host}, port {port} ({error.strerror}); choose another with --port"
        ) from error


def command(model: Model, files: ModelFiles, *, host: str, port: int) -> list[str]:
    """The command of the server, which lists the model under its name in a recipe."""
    prepare_environment()
    from vllm.platforms import current_platform

    arguments = engine_arguments(model, files, on_cpu=current_platform.is_cpu())
    arguments |= {"served_model_name": files.name, "host": host, "port": port}
    # vLLM says in a warning that its own `vllm serve` replaces this module.
    return [sys.executable, "-P", "-W", "ignore::DeprecationWarning", "-m", _MODULE, *as_options(arguments)]


def as_options(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments of `vllm.EngineArgs` as the words of a command."""
    return [word for name, value in arguments.items() for word in _option(name, value)]


def become(command: list[str], *, key_variable: str, log_level: str) -> NoReturn:
    """Replace this process by the server, so that each signal reaches it. It wants the key in the variable, if any."""
    key = secrets.from_environment(key_variable)
    own = {"VLLM_LOGGING_LEVEL": log_level} | ({} if key is None else {"VLLM_API_KEY": key})
    os.execve(command[0], command, os.environ | own)  # noqa: S606 -- no shell is wanted


def _option(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, dict):
        return [f"--{flag}", json.dumps(value)]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]
