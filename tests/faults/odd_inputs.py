"""What the fuzz tests choose from: predicates, records, arguments, replies of servers, variables."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzzing import FLAT, TEXTS, VALUES
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "engines"))
from loopback import Answer

PREDICATES = (
    st.sampled_from(
        [
            "",
            "(",
            ")",
            "1",
            "1 = 1",
            "NULL",
            "instruction",
            "1/0 > 0",
            "error('x')",
            "CAST(instruction AS INT) > 1",
            "regexp_matches(instruction, '(')",
            "row_id",
            "nothing = 1",
            "true; SELECT 1",
            "-- x",
            "getenv('HOME') = ''",
            "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0",
            "len(conversation) > 1",
            "conversation[1].content = ''",
            "list_transform(range(3), x -> x)[1] = 1",
            "count(*) > 1",
            "row_number() OVER () > 1",
            "$1",
            "?",
            "'a",
            '"a',
            "1e400 > 1",
            "instruction COLLATE nothing = ''",
            "strptime(instruction, '%Q') IS NULL",
            "(" * 300 + "1" + ")" * 300,
            "{'a': 1}.b = 1",
            "unnest([1]) = 1",
            "random() > 0.5",
            "instruction GLOB '['",
            "instruction SIMILAR TO '('",
        ]
    )
    | TEXTS.map(lambda text: f"instruction = {text}")
    | TEXTS
)


def as_file(kind: str, rows: list[Any]) -> bytes:
    """The rows in a file of this kind."""
    if kind == "json":
        return json.dumps(rows).encode()
    if kind == "jsonl":
        return "\n".join(map(json.dumps, rows)).encode()
    if kind == "csv":
        columns = sorted({str(key) for row in rows if isinstance(row, dict) for key in row})
        lines = [columns, *([str(row.get(key)) for key in columns] for row in rows if isinstance(row, dict))]
        return "\n".join(",".join(f'"{cell}"' for cell in line) for line in lines).encode()
    table = pa.table({"instruction": [str(row) for row in rows], "response": ["b"] * len(rows)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


ROLE = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", ""]) | FLAT
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLE, "content": FLAT}), max_size=4)
RECORD = (
    st.fixed_dictionaries({"instruction": TEXTS | FLAT, "response": TEXTS | FLAT})
    | st.fixed_dictionaries({"messages": MESSAGES | VALUES})
    | st.fixed_dictionaries({"conversations": MESSAGES | VALUES, "id": FLAT})
    | st.dictionaries(TEXTS, VALUES, max_size=4)
    | VALUES
)


OPTIONS = """
    --json --out --rows --set --seed --format --input --split --explain --compare --n --rejected
    --columns --drop-empty --overwrite --gpu --gpus --price --like --help --version --stop-after
    --reuse --executor --replicas --address -h -x --nothing
""".split()  # noqa: SIM905 - forty lines shorter
SAFE = """
    status verify filter export columns show new recipe templates filters recipes schema plan import nothing
""".split()  # noqa: SIM905 - forty lines shorter


CHOICE = st.fixed_dictionaries({"text": FLAT, "finish_reason": FLAT, "index": FLAT})
REPLY = (
    VALUES
    | st.fixed_dictionaries({"choices": st.lists(CHOICE | VALUES, max_size=2) | VALUES, "usage": VALUES})
    | st.fixed_dictionaries(
        {
            "choices": st.lists(CHOICE, min_size=1, max_size=1),
            "usage": st.fixed_dictionaries({"prompt_tokens": st.just(4) | FLAT, "completion_tokens": FLAT}),
        }
    )
)
STATUS = st.sampled_from([200, 200, 200, 204, 302, 400, 401, 404, 413, 422, 429, 500, 503])
HEADERS = st.sampled_from(
    [
        {},
        {},
        {},
        {"Retry-After": "0"},
        {"Retry-After": "-1"},
        {"Retry-After": "nan"},
        {"Content-Encoding": "gzip"},
        {"Content-Type": "text/html; charset=nothing"},
        {"Location": "/"},
        {"Content-Length": "3"},
        {"Transfer-Encoding": "x"},
    ]
)
CARD = st.fixed_dictionaries(
    {
        "id": st.just("wanted") | FLAT,
        "owned_by": st.sampled_from(["vllm", "sglang", "llamacpp"]) | FLAT,
        "max_model_len": FLAT,
    }
)


NAMES = st.sampled_from(
    [
        "COLUMNS",
        "LINES",
        "TERM",
        "LANG",
        "LC_ALL",
        "TZ",
        "NO_COLOR",
        "FORCE_COLOR",
        "HOME",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "MAGPIE_CACHE",
        "MAGPIE_LOG",
        "HF_TOKEN",
        "HF_HOME",
        "HUGGING_FACE_HUB_TOKEN",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "RAY_ADDRESS",
        "AWS_PROFILE",
        "USER",
        "PATH",
    ]
)
OF_ENVIRONMENT = (
    TEXTS
    | st.sampled_from(
        ["5", "0", "10**9", "99999999999", "C", "xx_XX.nothing", "http://:@", "debug", "\udcff"]
    )
).map(lambda text: text.replace("\x00", ""))
ANSWERS = st.lists(
    st.builds(Answer, REPLY, STATUS, HEADERS, st.just(0.0), st.sampled_from([False] * 5 + [True])), max_size=4
)
