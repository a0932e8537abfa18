"""Chat templates are programs that come with a model: rendered as transformers does, and held to little."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers_made import CHATML, GUARD, derive, refused, small

from magpie.chat import ChatFormat, jinja
from magpie.errors import ChatFormatError

TODAY = datetime(2024, 7, 26)
MESSAGES = [{"role": "user", "content": "Größe <b> ' \" \\ 🐦\n"}, {"role": "assistant", "content": "ok"}]
HOSTILE = {
    "nested loops": "{% for a in range(90000) %}{% for b in range(90000) %}{{ a }}{% endfor %}{% endfor %}",
    "loops that write nothing": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "a big power": "{{ (9 ** 9) ** (9 ** 9) }}",
    "a power in a condition": "{% if messages[0].content | length ** 99999999 > 1 %}{% endif %}",
    "a long product": "{{ 'a' * 10 ** 10 }}",
    "a deep indent": "{{ messages | tojson(indent=10**9) }}",
    "a recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "a long range": "{% for a in range(10**9) %}{% endfor %}",
    "half a character": "{{ '\\ud83d' }}",
    "much text": "{{ 'abcdefgh' * 10 ** 6 }}",
    "a deep nest": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "padding": "{{ '%999999999d' | format(1) }}",
    "centering": "{{ 'a' | center(10**10) }}",
}


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A renderer with a second of time, as a script of its own."""
    text = Path(jinja._SCRIPT).read_text(encoding="utf-8").replace("CPU_SECONDS = 5.0", "CPU_SECONDS = 1.0")
    before, script = jinja._SCRIPT, tmp_path_factory.mktemp("renderer") / "renderer.py"
    script.write_text(text, encoding="utf-8")
    jinja._renderer.close()
    jinja._SCRIPT = script
    yield
    jinja._renderer.close()
    jinja._SCRIPT = before


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_template_that_takes_too_much_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    reason = refused(tmp_path, HOSTILE[kind] + CHATML)
    assert "the chat template of" in reason
    assert reason.isprintable()
    # The next one is none the worse for it.
    assert derive(tmp_path / "next", CHATML).pre_query == "<|im_start|>user\n"


def test_what_a_template_raises_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    reason = refused(tmp_path, "{{ raise_exception('\\x1b]52;c;aGk=\\x07 \\x1b[2J\\n \u202e') }}")
    assert r"\x1b]52" in reason and r"\u202e" in reason
    assert reason.isprintable()


def test_a_template_sees_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    jinja._renderer.close()
    jinja.render("", {}, TODAY)
    (process,) = [p for p in psutil.Process().children() if "renderer" in " ".join(p.cmdline())]
    assert "HF_TOKEN" not in process.environ()
    assert process.environ().keys() <= set(jinja._ENVIRONMENT) | {"LC_CTYPE"}


def test_nothing_of_the_current_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("jinja2", "json", "markupsafe", "magpie"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    jinja._renderer.close()
    assert jinja.render("{{ 1 + 1 }}", {}, TODAY) == "2"


def test_a_renderer_that_was_killed_is_started_again() -> None:
    assert jinja.render("a", {}, TODAY) == "a"
    process = jinja._renderer._process
    assert process is not None
    process.kill()
    process.wait()
    assert jinja.render("b", {}, TODAY) == "b"


def test_the_renderer_ends_with_the_process_that_started_it() -> None:
    code = (
        "from datetime import datetime\nfrom magpie.chat import jinja\njinja.render('', {}, datetime(2024, 1, 1))\n"
        "print(jinja._renderer._process.pid, flush=True)\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    if psutil.pid_exists(pid):
        psutil.wait_procs([psutil.Process(pid)], timeout=20)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


TEMPLATES = {
    "chatml": CHATML,
    "guard": GUARD,
    "spaces": "  {% if true %}\n  a\n  {%- endif %}\n\n{% for m in messages -%}\n x{{ m.content }}  {% endfor %}\n",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2, sort_keys=true) }}",
    "loops": "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ loop.index }}{% endfor %}",
    "generation": "a\n  {% generation %}\nb{{ messages[0].content }}\n{%- endgeneration %}\n c",
    "tools": "{% if tools is none %}no{% endif %}{{ tools }}{% if x is defined %}x{% endif %}{{ missing }}",
    "date": "{{ strftime_now('%d %b %Y') }}",
    "methods": "{{ messages[0]['content'].split('\\n')[0].strip().upper() }}{{ '%s' % messages[0].role }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_rendered_as_transformers_renders_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    given = {"bos_token": "<s>", "strftime_now": TODAY.strftime}
    for add in (False, True):
        (expected,), _ = render_jinja_template(
            [MESSAGES], chat_template=TEMPLATES[name], add_generation_prompt=add, **given
        )
        variables = {"tools": None, "documents": None, "bos_token": "<s>"}
        variables |= {"messages": MESSAGES, "add_generation_prompt": add}
        assert jinja.render(TEMPLATES[name], variables, TODAY) == expected


def test_errors_of_templates_are_told(tmp_path: Path) -> None:
    for template, reason in (
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages.a.b }}", "has no attribute"),
        ("{{ ''.__class__.mro() }}", "unsafe"),
    ):
        with pytest.raises(ChatFormatError, match=reason):
            jinja.render(template, {"messages": []}, TODAY)


def test_a_byte_order_mark_is_no_part_of_a_template(tmp_path: Path) -> None:
    where = Path(small(tmp_path, CHATML))
    (where / "chat_template.jinja").write_bytes(b"\xef\xbb\xbf" + CHATML.encode())
    assert ChatFormat.from_model(str(where)).pre_query == "<|im_start|>user\n"
