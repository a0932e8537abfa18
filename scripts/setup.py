"""Make .venv, and put magpie and all it stands on into it: `python3 scripts/setup.py`, called by make.

A .venv at work is marked by .venv/unfinished, which becomes .venv/ready when everything is in place. One that was
interrupted is made anew. A ready one has nothing to do or, when pyproject.toml has changed since, only the difference
to install. One that somebody made by other means is never removed: it is only added to.
"""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
READY = VENV / "ready"
UNFINISHED = VENV / "unfinished"
OLDEST, NEWEST = (3, 11), (3, 14)  # what torch and vLLM have builds for
IS_RIGHT_AGE = f"import sys; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"


def main():
    """Bring .venv up to date, and say what is being done. Exits with one message when it cannot be."""
    extras = f"{'gpu' if has_gpu() else 'cpu'},dev"
    made_of = (ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes()
    ready = f"{hashlib.sha256(made_of).hexdigest()[:16]} {extras} {ROOT}"
    found = READY.read_text() if READY.is_file() else ""
    usable = works(PYTHON, "-I", "-c", IS_RIGHT_AGE)
    if found == ready and usable:
        return
    if found.endswith(f" {ROOT}") and usable:
        READY.rename(UNFINISHED)
    elif is_foreign():
        if not usable or not works(PYTHON, "-I", "-m", "pip", "--version"):
            stop("the .venv here is not of our making and cannot be used; move it away, then run this again")
    else:
        make_venv()
    install_uv()
    install(extras)
    UNFINISHED.write_text(ready)
    UNFINISHED.rename(READY)
    say("ready")


def is_foreign():
    """Whether .venv is a virtual environment that this script did not make."""
    return (VENV / "pyvenv.cfg").is_file() and not READY.is_file() and not UNFINISHED.is_file()


def make_venv():
    """An empty .venv, in place of any there is."""
    discarded = ROOT / ".venv.discarded"
    if VENV.exists():
        say("the .venv here was not finished, or was made elsewhere; making it anew")
        shutil.rmtree(discarded, ignore_errors=True)
        VENV.rename(discarded)  # at once, so that no half-removed .venv can be taken for a whole one
    shutil.rmtree(discarded, ignore_errors=True)
    say(f"making .venv with Python {sys.version.split()[0]}")
    VENV.mkdir()
    UNFINISHED.touch()
    if run(sys.executable, "-I", "-m", "venv", VENV) != 0:
        version = ".".join(str(number) for number in sys.version_info[:2])
        stop(
            f"{sys.executable} cannot make a virtual environment; on Debian and Ubuntu install what it lacks with "
            f"`sudo apt install python{version}-venv`, then run this again"
        )


def install_uv():
    """uv, which resolves in a second what takes pip minutes, and can leave out a package's needless needs."""
    quiet = ("--quiet", "--quiet", "--disable-pip-version-check")
    if (
        not works(VENV / "bin" / "uv", "--version")
        and run(PYTHON, "-I", "-m", "pip", "install", *quiet, "uv") != 0
    ):
        stop(
            "uv could not be installed; most often there is no network, or it needs a proxy (HTTPS_PROXY). "
            "Mend that, then run this again"
        )


def install(extras):
    """Install magpie from this folder. uv reads the overrides in pyproject.toml because it runs here."""
    say(f"installing magpie[{extras}]: about 1.3 GB to fetch the first time, a minute or two on a fast line")
    command = ["pip", "install", "--python", PYTHON, "--editable", f".[{extras}]"]
    if not sys.stderr.isatty():
        command.append("--quiet")
    if run(VENV / "bin" / "uv", *command, env=uv_settings(extras)) != 0:
        stop(
            "the install did not finish. Run this again: what was fetched is kept. If it is torch that was not found, "
            "the places that pip is configured to look in have no build of it: set UV_TORCH_BACKEND=cpu"
        )


def uv_settings(extras):
    """The environment for uv, told what pip knows of where packages are: uv does not read pip's configuration."""
    pip = pip_settings()
    links, indexes = pip("find-links"), pip("extra-index-url")
    settings = {
        "UV_DEFAULT_INDEX": " ".join(pip("index-url")),
        "UV_INDEX": " ".join(indexes),
        "UV_FIND_LINKS": ",".join(links),
        "SSL_CERT_FILE": " ".join(pip("cert")),
    }
    if indexes:  # pip takes the best version of all indexes; uv only looks in the first that has the name
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if "cpu" in extras and sys.platform == "linux" and not links and not indexes:
        settings["UV_TORCH_BACKEND"] = "cpu"  # the CPU build of torch is not on PyPI
    return {**{name: value for name, value in settings.items() if value}, **os.environ}


def pip_settings():
    """A function from the name of a pip setting to its values: the environment's, else the configuration files'."""
    command = [str(PYTHON), "-I", "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    written = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)

    def setting(name):
        places = [f"{part}.{name}" for part in (":env:", "install", "global")]
        return next((ast.literal_eval(written[place]).split() for place in places if place in written), [])

    return setting


def has_gpu():
    """Whether an NVIDIA GPU answers."""
    return shutil.which("nvidia-smi") is not None and works("nvidia-smi", "-L")


def find_python():
    """Go on under a Python of the right age, when this one is not."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return
    for minor in (13, 12, 14, 11):
        other = shutil.which(f"python3.{minor}")
        if other and works(other, "-I", "-c", IS_RIGHT_AGE):
            os.execv(other, [other, __file__])  # noqa: S606
    stop(
        f"Python {sys.version.split()[0]} is not one that magpie runs on, and no other was found; install Python "
        f"3.{OLDEST[1]} to 3.{NEWEST[1]}, or name one that you have: make PYTHON=/path/to/python3.12"
    )


def works(*command):
    """Whether the command exists and succeeds."""
    silent = subprocess.DEVNULL
    try:
        return subprocess.call([str(part) for part in command], stdout=silent, stderr=silent) == 0
    except OSError:
        return False


def run(*command, env=None):
    """Run in the project's folder, with what the command says on stderr. The exit status."""
    command = [str(part) for part in command]
    return subprocess.call(command, cwd=ROOT, stdout=sys.stderr, env=env)


def say(message):
    """One line for the person waiting."""
    print(f"set-up: {message}", file=sys.stderr, flush=True)


def stop(message):
    """End with what happened and what to do next."""
    sys.exit(f"set-up: {message}.")


if __name__ == "__main__":
    try:
        find_python()
        main()
    except KeyboardInterrupt:
        stop("interrupted; run the same command again to go on")
