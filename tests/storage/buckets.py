"""A real S3 server on loopback, moto's, with an empty bucket for each test that asks for one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from moto_process import moto_server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of the server."""
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("obstore", reason="obstore is not installed")
    with moto_server() as url:
        yield url


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a run in a new bucket."""
    import httpx

    for key, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "magpie",
        "AWS_SECRET_ACCESS_KEY": "magpie",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    name = f"runs-{uuid.uuid4().hex[:12]}"
    assert httpx.put(f"{s3_server}/{name}", trust_env=False).status_code == 200
    return f"s3://{name}/run"
