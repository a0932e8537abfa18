"""The command that serves a model, for builds that ask a server."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from magpie.cli.options import ModelName
from magpie.terminal import print_line


def serve(
    model: ModelName,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen at.")] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 is every address of this machine.")
    ] = "127.0.0.1",
    context_length: Annotated[
        int, typer.Option(min=64, help="The most tokens of prompt and completion together.")
    ] = 4096,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="How many GPUs the model is split over.")] = 1,
) -> None:
    """Serve a model with vLLM, for builds whose recipe asks a server."""
    from magpie.engines.vllm import serve as server
    from magpie.models import resolve
    from magpie.recipe import Model, Server

    log_level = os.environ.get("VLLM_LOGGING_LEVEL", "INFO")  # else nobody sees that the server is ready
    server.check_place(host, port)
    settings = Model(model=model, context_length=context_length, tensor_parallel=tensor_parallel)
    files = resolve(settings)
    command = server.command(settings, files, host=host, port=port)
    reached = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 -- only asked for here
    address = Server(url=f"http://{f'[{reached}]' if ':' in reached else reached}:{port}/v1")
    for line in (
        f"serving {files.name} from now on, until Ctrl-C; in a recipe:",
        "models:",
        "  generator:",
        f"    model: {model}",
        "    engine: server",
        f"    context_length: {context_length}",
        f"    server: {{url: {address.url!r}, model: {files.name}}}",
    ):
        print_line(line)
    sys.stdout.flush()
    server.become(command, key_variable=address.api_key_env, log_level=log_level)
