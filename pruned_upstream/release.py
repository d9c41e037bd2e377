"""A folder to publish: the model file, its description as JSON, a model card, and ONNX files on request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .errors import DataError
from .export import OnnxReport, export_onnx
from .files import atomic_folder, write_text
from .model.checkpoint import load, read_header, read_masks, save
from .model.config import EncoderConfig
from .model.hub import RELEASED as MODEL
from .model.hub import local_file
from .model.size import count_parameters, parameters_by_part
from .parsing import require
from .readme import README
from .transformers_plugin.folders import describe, write_preprocessor

LICENSE = re.compile(r"[\w.+-]+", re.ASCII)  # nothing else could stand in the card's YAML


def write_release(
    file: str | Path,
    folder: str | Path,
    *,
    name: str,
    license: str = "other",
    results: str | Path | None = None,
    onnx: bool = False,
) -> list[Path]:
    """Make `folder` from a model file.

    It appears with all its files or not at all, and none of them names a place on this machine.

    Args:
        license: of the weights, an identifier of the Hugging Face hub's list.
        results: a run folder with a results.yaml, whose scores the card shows.
        onnx: write model.onnx and model.int8.onnx too.

    Returns:
        The written files; the card is the last.

    Raises:
        CheckpointError: `file` is no model file.
        ConfigError: a name or a license that cannot be.
        DataError: `results` are of another model.
        PrunedUpstreamError: the folder holds something already, or an export fails.
    """
    folder = Path(folder)
    file = local_file(file)
    require(bool(LICENSE.fullmatch(license)), "--license", license, "be an identifier, as apache-2.0 or cc-by-4.0")
    require(bool(name.strip()) and name.isprintable(), "--name", name, "be a name in one line")
    header, encoder = read_header(file), load(file)
    provenance = {key: without_places(value) for key, value in header.provenance.items()}
    scores = "" if results is None else _scores(Path(results), file, header.config)
    sections = [
        _front_matter(license),
        f"# {name}\n",
        _summary(header.config),
        _missed(provenance),
        _loading(name),
        _origin(provenance),
    ]
    sections.append(without_places(scores))
    with atomic_folder(folder, last=MODEL) as unfinished:
        save(unfinished / MODEL, encoder, provenance=provenance, masks=read_masks(file))
        described = [*describe(unfinished, header.config, provenance), write_preprocessor(unfinished, header.config)]
        written = [MODEL, *(path.name for path in described)]
        if onnx:
            reports = [
                export_onnx(encoder, unfinished / file_name, int8=int8, provenance=provenance)
                for file_name, int8 in (("model.onnx", False), ("model.int8.onnx", True))
            ]
            written += [report.path.name for report in reports]
            sections.append(_runtimes(reports))
        sections.append(_widths(header.config))
        write_text(unfinished / README, "\n".join(section for section in sections if section))
    return [folder / file_name for file_name in (*written, README)]


def without_places(text: str) -> str:
    """Text whose absolute paths, and those from ~, ./ or ../, are cut to their last part.

    >>> without_places("teacher: /home/someone/models/WavLM-Base.pt")
    'teacher: WavLM-Base.pt'
    """
    return PLACE.sub(lambda place: re.split(r"[/\\]", place[0].rstrip("/\\"))[-1], text)


_START = r"(?:~[\w.-]*|\.{1,2}|[A-Za-z]:)?(?:/(?!/)|\\)"
_WORD = r"[^\s\"'`,;:(){}\[\]<>]"
PLACE = re.compile(
    rf"""\A{_START}[^\n]+\Z"""  # all of a value, where spaces belong to it
    rf"""|file:/+{_WORD}+"""
    rf"""|(?<=["']){_START}(?:[^"'\n]|'')+(?=["'])"""  # in quotes, as well; YAML doubles its own in a text
    rf"""|(?<=[:-][ ]){_START}[^"'\n\[\]{{}}]+$"""  # a value of YAML, up to the end of its line
    rf"""|(?<![\w/\\.~<-])(?<!hf:){_START}{_WORD}+""",
    re.MULTILINE,
)


def _front_matter(license: str) -> str:
    tags = "\n".join(f"- {tag}" for tag in ("speech", "self-supervised", "pruning", "s3prl", "pruned_upstream"))
    return f"---\nlicense: {license}\nlibrary_name: pruned_upstream\ntags:\n{tags}\n---\n"


def _missed(provenance: Mapping[str, str]) -> str:
    """A sentence that training gave a model which is further from its target than its recipe tolerates."""
    return f"**{provenance['missed'].capitalize()}.**\n" if "missed" in provenance else ""


def _summary(config: EncoderConfig) -> str:
    from .description.macs import official_macs

    dense = config.densified()
    rows = {
        "parameters (M)": lambda c: f"{count_parameters(c) / 1e6:.2f}",
        "MACs of SUPERB's 32 profiling utterances (G)": lambda c: f"{sum(b.total for b in official_macs(c)) / 1e9:.1f}",
        "living attention heads": lambda c: sum(len(layer.heads) for layer in c.layers),
    }
    lines = [f"| {label} | {count(config)} | {count(dense)} |" for label, count in rows.items()]
    return "\n".join(
        [
            f"A {config.family} encoder of {config.num_layers} layers, made smaller by structured pruning.\n",
            "| | this model | the same unpruned |",
            "|---|---|---|",
            *lines,
            "",
        ]
    )


def _loading(name: str) -> str:
    return f"""## Use

```python
import pruned_upstream, soundfile, torch
encoder = pruned_upstream.load("{MODEL}")
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono, 16 kHz
with torch.no_grad():
    hidden_states = encoder.extract([torch.from_numpy(samples)]).hidden_states
```

With s3prl: `run_downstream.py -u pruned_upstream -k {MODEL} -d asr ...`. Where the model is on the Hugging Face hub,
its name there will do in both: `hf://OWNER/{name}`, or `hf://OWNER/{name}@REVISION`.
"""


def _origin(provenance: Mapping[str, str]) -> str:
    if not provenance:
        return "## Origin\n\nThe model file does not say what it was made from.\n"
    parts = []
    for key, value in sorted(provenance.items()):
        if "\n" in value:
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", value)), default=0))  # longer than any in the text
            parts.append((True, f"\n{key}:\n\n{fence}yaml\n{value.strip()}\n{fence}\n"))
        else:
            parts.append((False, f"- {key}: {value}\n"))
    return "## Origin\n\n" + "".join(part for _, part in sorted(parts, key=lambda part: part[0]))


def _scores(run: Path, file: Path, config: EncoderConfig) -> str:
    from .superb.report import Entry, overview
    from .superb.results import SHA256, read_results, sha256

    results = read_results(run)
    if not results.of_file(file):
        raise DataError(
            f"{run} holds results of another model (its file's SHA-256 begins with {results.provenance[SHA256][:8]}, "
            f"that of {file} with {sha256(file)[:8]}); score this one, or name the folder of its scores"
        )
    if results.parameters not in (None, count_parameters(config)):
        raise DataError(
            f"{run} holds results of another model, of {results.parameters:,} parameters, where {file} has "
            f"{count_parameters(config):,}; score this one, or name the folder of its scores"
        )
    text = "## SUPERB\n\n" + overview([Entry.measured(results)]).markdown() + "\n"
    unofficial = sorted(task for task, result in results.tasks.items() if not result.official)
    if unofficial:
        text += f"\nNot by the official protocol or data, so not for comparison with others: {', '.join(unofficial)}.\n"
    return text


def _runtimes(reports: list[OnnxReport]) -> str:
    rows = [
        f"| {report.path.name} | {report.bytes / 1e6:.1f} | {report.largest:.1e} | {max(report.relative):.1e} |"
        for report in reports
    ]
    return "\n".join(
        [
            "## ONNX\n",
            "| file | MB | largest difference from torch | relative difference of the worst layer |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _widths(config: EncoderConfig) -> str:
    rows = [
        f"| {number} | {len(layer.heads)} | {layer.qk} | {layer.vo} | {layer.ffn} |"
        for number, layer in enumerate(config.layers, start=1)
    ]
    parts = [f"| {part.replace('_', ' ')} | {count:,} |" for part, count in parameters_by_part(config).items() if count]
    return "\n".join(
        [
            "## Shape\n",
            f"Front-end channels: {', '.join(str(layer.channels) for layer in config.conv)}.\n",
            "| layer | heads | q/k dimensions | v/o dimensions | feed-forward |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "| part | parameters |",
            "|---|---|",
            *parts,
            "",
        ]
    )
