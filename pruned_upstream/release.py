"""A folder to publish: the model file, its description as JSON, a model card, and ONNX files on request."""

from __future__ import annotations

from pathlib import Path

from .errors import PrunedUpstreamError
from .export import OnnxReport, export_onnx
from .files import write_text
from .model.checkpoint import Header, load, read_header, read_masks, save
from .model.config import EncoderConfig
from .model.hub import RELEASED as MODEL
from .model.hub import local_file
from .model.size import count_parameters, parameters_by_part
from .transformers_plugin.folders import describe, write_preprocessor


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

    Args:
        license: of the weights, an identifier of the Hugging Face hub's list.
        results: a run folder with a results.yaml, whose scores the card shows.
        onnx: write model.onnx and model.int8.onnx too.

    Returns:
        The written files; the card is the last.

    Raises:
        CheckpointError: `file` is no model file.
        PrunedUpstreamError: the folder holds another model already, or an export fails.
    """
    folder = Path(folder)
    if (folder / MODEL).exists():
        raise PrunedUpstreamError(f"{folder} holds a released model already; name another folder or remove it")
    file = local_file(file)
    header, encoder = read_header(file), load(file)
    scores = "" if results is None else _scores(Path(results))
    save(folder / MODEL, encoder, provenance=header.provenance, masks=read_masks(file))
    written = [folder / MODEL, *describe(folder, header.config, header.provenance)]
    written.append(write_preprocessor(folder, header.config))
    sections = [_front_matter(license), f"# {name}\n", _summary(header.config), _loading(name), _origin(header), scores]
    if onnx:
        reports = [
            export_onnx(encoder, folder / file_name, int8=int8, provenance=header.provenance)
            for file_name, int8 in (("model.onnx", False), ("model.int8.onnx", True))
        ]
        written += [report.path for report in reports]
        sections.append(_runtimes(reports))
    sections.append(_widths(header.config))
    write_text(folder / "README.md", "\n".join(section for section in sections if section))
    return [*written, folder / "README.md"]


def _front_matter(license: str) -> str:
    tags = "\n".join(f"- {tag}" for tag in ("speech", "self-supervised", "pruning", "s3prl", "pruned_upstream"))
    return f"---\nlicense: {license}\nlibrary_name: pruned_upstream\ntags:\n{tags}\n---\n"


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


def _origin(header: Header) -> str:
    if not header.provenance:
        return "## Origin\n\nThe model file does not say what it was made from.\n"
    parts = []
    for key, value in sorted(header.provenance.items()):
        block = "\n" in value
        parts.append(f"\n{key}:\n\n```yaml\n{value.strip()}\n```\n" if block else f"- {key}: {value}\n")
    return "## Origin\n\n" + "".join(sorted(parts, key=lambda part: "```" in part))


def _scores(run: Path) -> str:
    from .superb.report import Entry, overview
    from .superb.results import read_results

    results = read_results(run)
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
