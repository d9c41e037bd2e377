"""What this installation can do, and how to mend what it cannot: `pruned-upstream doctor`.

Nothing but the standard library is imported here, so that it runs where anything is broken. Each check has a process of
its own: a compiled library that does not fit may end the process that imports it.

    python -m pruned_upstream.doctor         the same without typer and rich
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .extras import EXTRA_OF

GOOD, ABSENT, WARNING, BROKEN = "good", "absent", "warning", "broken"
AT_ONCE = 4
PATIENCE_SECONDS = 180
ROOM_GB = 5.0  # of a run with its checkpoints; SUPERB's corpora need far more
OLDEST_PYTHON, OLDEST_TORCH = (3, 11), (2, 5)
FORMATS = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3"}  # soundfile's names
# what a check needs besides its own package
BELOW = {
    "model files": ("torch",),
    "gpu": ("torch",),
    "torchaudio": ("torch", "audio formats"),
    "s3prl": ("torch", "torchaudio", "audio formats"),
    "sox": ("torch", "torchaudio", "audio formats"),
    "transformers": ("torch",),
}
REASON = 200  # characters of a foreign message
SEPARATOR = "\t"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        state: GOOD; ABSENT, an extra that is not installed; WARNING, works and may surprise; BROKEN.
        words: what there is.
        remedy: what to do, "" where nothing is to be done.
    """

    name: str
    state: str
    words: str
    remedy: str = ""


def examine(names: list[str] | None = None) -> list[Finding]:
    """Run the checks, all by default, each in a process of its own; the order is that of `CHECKS`."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        found = {finding.name: finding for finding in pool.map(_apart, names or list(CHECKS))}
    return [_blamed(finding, found) for finding in found.values()]


def _blamed(finding: Finding, found: Mapping[str, Finding]) -> Finding:
    """What fails only because something below it fails, with the advice to mend that first."""
    for name in BELOW.get(finding.name, ()):
        if finding.state == BROKEN and name in found and found[name].words == finding.words:
            return dataclasses.replace(finding, remedy=f"mend {name} first")
    return finding


def is_healthy(findings: list[Finding]) -> bool:
    """Whether nothing that was examined is broken."""
    return all(finding.state != BROKEN for finding in findings)


def _apart(name: str) -> Finding:
    command = [sys.executable, "-W", "ignore", "-m", "pruned_upstream.doctor", "--check", name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *_python_path()])}
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="backslashreplace",
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding(name, BROKEN, f"no answer within {PATIENCE_SECONDS} s", "try it by hand: " + " ".join(command))
    except OSError as error:
        return Finding(name, BROKEN, f"no process could be started: {error.strerror}", "free memory and processes")
    if ended.returncode < 0:
        number = -ended.returncode
        ending = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return Finding(name, BROKEN, f"importing it ends the process ({ending})", _again(name))
    last = ended.stdout.rstrip("\n").rpartition("\n")[2].split(SEPARATOR)
    if ended.returncode or len(last) != 3:
        reason = (ended.stderr.strip().splitlines() or ["it says nothing"])[-1][:REASON]
        return Finding(name, BROKEN, reason, _again(name))
    return Finding(name, *last)


def _python_path() -> list[str]:
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


# --- the checks -----------------------------------------------------------------------------------------------------


def _python(name: str) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding(name, BROKEN, version, "make an environment with Python 3.11 or newer")
    return Finding(name, GOOD, f"{version} in {sys.prefix}")


def _torch(name: str) -> Finding:
    torch = importlib.import_module("torch")
    if _numbers(torch.__version__) < OLDEST_TORCH:
        return Finding(name, BROKEN, f"{torch.__version__} is too old", "pip install 'torch>=2.5'")
    product = (torch.ones(2, 3) @ torch.ones(3, 2)).sum().item()
    if product != 12.0:
        return Finding(name, BROKEN, f"{torch.__version__} multiplies wrongly: 12 came out as {product}", _again(name))
    return Finding(name, GOOD, f"{torch.__version__}, {torch.get_num_threads()} threads")


def _model_files(name: str) -> Finding:
    numpy, torch = importlib.import_module("numpy"), importlib.import_module("torch")
    safetensors = importlib.import_module("safetensors.torch")
    back = safetensors.load(safetensors.save({"x": torch.from_numpy(numpy.arange(3.0))}))["x"].numpy()
    if back.tolist() != [0.0, 1.0, 2.0]:
        return Finding(name, BROKEN, f"0, 1, 2 came back as {back}", _again(name))
    return Finding(name, GOOD, f"safetensors {_version('safetensors')} beside numpy {numpy.__version__}")


def _recipes(name: str) -> Finding:
    _require("omegaconf", "yaml")
    omegaconf = importlib.import_module("omegaconf").OmegaConf
    if omegaconf.to_container(omegaconf.create("a: {b: 1}")) != {"a": {"b": 1}}:
        return Finding(name, BROKEN, f"omegaconf {_version('omegaconf')} reads other than it should", _again(name))
    return Finding(name, GOOD, f"omegaconf {_version('omegaconf')} reads them")


def _gpu(name: str) -> Finding:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        torch.ones(2, device="cuda").sum().item()
        return Finding(name, GOOD, f"{', '.join(devices)}; CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi") is None:
        return Finding(name, ABSENT, "no NVIDIA driver on this machine", "train on a machine with a GPU; all else runs")
    if torch.version.cuda is None:
        return Finding(
            name, WARNING, f"there is a driver, and torch {torch.__version__} is built without CUDA",
            "pip install --force-reinstall torch from the index that pytorch.org names for your CUDA",
        )  # fmt: skip
    return Finding(
        name, BROKEN, f"there is a driver, and torch (CUDA {torch.version.cuda}) sees no GPU",
        "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES; the driver may be older than this CUDA wants",
    )  # fmt: skip


def _torchaudio(name: str) -> Finding:
    _require(name)
    importlib.import_module("pruned_upstream.s3prl_plugin.compat").apply()
    torch, torchaudio = importlib.import_module("torch"), importlib.import_module("torchaudio")
    importlib.import_module("torchaudio.compliance.kaldi").fbank(torch.zeros(1, 16000))
    return Finding(name, GOOD, f"{torchaudio.__version__} beside torch {torch.__version__}; it makes filter banks")


def _s3prl(name: str) -> Finding:
    _require(name)
    importlib.import_module("pruned_upstream.s3prl_plugin.registry").register()
    hub = importlib.import_module("s3prl.hub")
    importlib.import_module("s3prl.nn")
    if not hasattr(hub, "pruned_wavlm"):
        return Finding(name, BROKEN, "it does not know -u pruned_wavlm", _again(name))
    return Finding(name, GOOD, f"{_version(name)} knows -u pruned_wavlm")


def _sox(name: str) -> Finding:
    _require("soxr", "sox")
    effects = importlib.import_module("pruned_upstream.s3prl_plugin.sox_effects")
    torch = importlib.import_module("torch")
    wav, rate = effects.apply_effects_tensor(torch.zeros(1, 8000), 8000, [["channels", "1"], ["rate", "16000"]])
    if (wav.size(1), rate) != (16000, 16000):
        return Finding(name, BROKEN, f"a second at 8 kHz became {wav.size(1)} samples", _again("soxr"))
    program = shutil.which("sox")
    try:
        importlib.import_module("sox")  # as s3prl does for speaker verification; it asks the program what it can do
    except Exception as error:
        if program is None:
            raise
        return Finding(
            name, BROKEN, f"{program} does not answer as SoX does: {_first_line(error)}",
            "take it out of PATH, it is not needed, or put SoX 14.4 there",
        )  # fmt: skip
    where = f"and the program {program}" if program else "the program sox is not needed"
    return Finding(name, GOOD, f"the effects that SUPERB uses are built in; {where}")


def _audio(name: str) -> Finding:
    _require("soundfile")
    numpy, soundfile = importlib.import_module("numpy"), importlib.import_module("soundfile")
    lacking = []
    for ending, kind in FORMATS.items():
        memory = io.BytesIO()
        try:
            soundfile.write(memory, numpy.zeros(1600), 16000, format=kind)
            memory.seek(0)
            soundfile.read(memory)
        except (soundfile.SoundFileError, ValueError, TypeError):
            lacking.append(ending)
    library = f"libsndfile {soundfile.__libsndfile_version__}"
    if "wav" in lacking or "flac" in lacking:
        return Finding(name, BROKEN, f"{library} cannot do {', '.join(lacking)}", _again("soundfile"))
    if lacking:
        return Finding(
            name, WARNING, f"{library} cannot do {', '.join(lacking)}",
            "pip install -U soundfile brings a newer one; or convert such recordings to FLAC",
        )  # fmt: skip
    return Finding(name, GOOD, f"{library} reads and writes {', '.join(FORMATS)}")


def _kenlm(name: str) -> Finding:
    _require("flashlight")
    importlib.import_module("flashlight.lib.text.decoder.kenlm")
    return Finding(name, GOOD, f"flashlight-text {_version('flashlight-text')} decodes with KenLM models")


def _onnxruntime(name: str) -> Finding:
    _require("onnx", "onnxruntime", "onnxscript")
    onnx, onnxruntime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    importlib.import_module("onnxscript")
    helper = onnx.helper
    value = [helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, [1]) for x in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    numpy = importlib.import_module("numpy")
    if session.run(None, {"x": numpy.ones(1, numpy.float32)})[0][0] != -1:
        return Finding(name, BROKEN, "onnxruntime computes wrongly", _again(name))
    return Finding(name, GOOD, f"{onnxruntime.__version__} runs what onnx {onnx.__version__} writes")


def _transformers(name: str) -> Finding:
    _require(name)
    importlib.import_module("pruned_upstream.transformers_plugin")
    return Finding(name, GOOD, _version(name))


def _disk(name: str) -> Finding:
    places: dict[str, Callable[[], object]] = {
        "here": Path.cwd,
        "temporary files": tempfile.gettempdir,
        "home": Path.home,
    }
    words = []
    for what, asked in places.items():
        advice = {"home": "set HF_HOME and XDG_CACHE_HOME to a folder", "temporary files": "set TMPDIR to a folder"}
        remedy = f"{advice.get(what, 'start from a folder')} that may be written"
        try:
            place = Path(str(asked()))
        except (OSError, RuntimeError) as error:  # a folder that was removed; a user whom the system does not know
            return Finding(name, WARNING, f"there is no place for {what}: {_first_line(error)}", remedy)
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
            free = shutil.disk_usage(place).free / 1e9
        except OSError as error:
            return Finding(name, WARNING, f"{place} ({what}) cannot be written: {error.strerror}", remedy)
        wanted = os.environ.get("TMPDIR")
        if what == "temporary files" and wanted and os.path.realpath(wanted) != os.path.realpath(place):
            said = f"TMPDIR is {wanted}, where no file can be written (is it there, and has it room?); {place} is taken"
            return Finding(name, WARNING, said, remedy)
        words.append(f"{what} {free:.0f} GB")
        if free < ROOM_GB:
            remedy = f"free {ROOM_GB:g} GB, or keep runs (run.folder) elsewhere"
            return Finding(name, WARNING, f"{free:.1f} GB are free in {place} ({what})", remedy)
    return Finding(name, GOOD, f"free: {', '.join(words)}")


def _hook(name: str) -> Finding:
    hook = importlib.import_module("pruned_upstream.s3prl_plugin.hook")
    status = hook.status()
    if not status.installed:
        remedy = "for s3prl started from a clone: pruned-upstream hook install"
        return Finding(name, ABSENT, "not installed; only a clone of s3prl needs it", remedy)
    if status.path.read_text(encoding="utf-8") != hook.LINE:
        return Finding(name, BROKEN, f"{status.path} is not the one of this version", "pruned-upstream hook install")
    if not status.enabled:
        return Finding(name, WARNING, f"installed, and switched off by {hook.SWITCH}=0", f"unset {hook.SWITCH}")
    return Finding(name, GOOD, f"installed: {status.path}")


CHECKS: dict[str, Callable[[str], Finding]] = {
    "python": _python,
    "torch": _torch,
    "model files": _model_files,
    "gpu": _gpu,
    "torchaudio": _torchaudio,
    "s3prl": _s3prl,
    "sox": _sox,
    "audio formats": _audio,
    "recipes": _recipes,
    "kenlm": _kenlm,
    "onnxruntime": _onnxruntime,
    "transformers": _transformers,
    "disk": _disk,
    "hook": _hook,
}
PACKAGE_OF = {
    "gpu": "torch",
    "model files": "safetensors numpy",
    "recipes": "omegaconf pyyaml",
    "audio formats": "soundfile",
    "sox": "soxr",
    "kenlm": "flashlight-text",
}


class _Missing(Exception):
    """A package that is not installed."""


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise _Missing(package)


def _check(name: str) -> Finding:
    """One check in this process; whatever a broken package raises is what it found."""
    try:
        return CHECKS[name](name)
    except _Missing as missing:
        package = str(missing)
        remedy = f"pip install 'pruned_upstream[{EXTRA_OF.get(package, 'superb')}]'"
        return Finding(name, ABSENT, f"the package {package} is not installed", remedy)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in EXTRA_OF:
            remedy = f"pip install 'pruned_upstream[{EXTRA_OF[package]}]'"
            return Finding(name, ABSENT, f"it needs the package {package}", remedy)
        return Finding(name, BROKEN, _first_line(error), _again(name))
    except Exception as error:
        return Finding(name, BROKEN, _first_line(error), _again(name))


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0][:REASON]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _again(name: str) -> str:
    """How to install a package anew, in a version that fits the others; or to mend what is no package."""
    if name == "hook":
        return "pruned-upstream hook install"
    if name == "disk":
        return "start from a folder that may be written, and set TMPDIR and HOME to such"
    package = PACKAGE_OF.get(name, name)
    if package == "torchaudio":
        return "pip install torchaudio in the version that pytorch.org lists beside your torch"
    return f"pip install --force-reinstall --no-deps {package} (the tested versions are in constraints.txt)"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split(".")[:2] if part.isdecimal())


def lines(findings: list[Finding]) -> list[str]:
    """The findings as plain text."""
    width = max(map(len, CHECKS))
    shown = []
    for finding in findings:
        shown.append(f"{finding.state:8}{finding.name:{width}}  {finding.words}")
        if finding.remedy:
            shown.append(f"{'':{8 + width}}  -> {finding.remedy}")
    return shown


def main(arguments: list[str]) -> int:
    """Examine this environment (or the one thing after `--check`) and print it; 1 if something is broken, else 0."""
    if arguments[:1] == ["--check"]:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names of folders may be of another encoding
        finding = _check(arguments[1])
        print(*(" ".join(part.split()) for part in (finding.state, finding.words, finding.remedy)), sep=SEPARATOR)
        return 0
    findings = examine()
    print("\n".join(lines(findings)))
    return 0 if is_healthy(findings) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
