"""Every format of a file that strangers may bring: a valid one, how it is spoiled, and who reads it."""

from __future__ import annotations

import argparse
import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from tiny import SHAPES, random_encoder, tiny_config, wavlm_checkpoint

from pruned_upstream.model.checkpoint import load, read_header, read_masks, save
from pruned_upstream.model.convert import load_teacher

from .mutation import VALUES, cyclic, spoiled_bytes, spoiled_tensors, spoiled_tree

Attack = Callable[[random.Random, Path], Callable[[], object]]


@dataclass(frozen=True)
class Format:
    """`attack(rng, folder)` writes a spoiled file into the folder and returns what reads it."""

    name: str
    attack: Attack


def formats(sources: Path) -> Iterator[Format]:
    """All formats; `sources` takes the valid files."""
    sources.mkdir(parents=True, exist_ok=True)
    yield from _ours(sources)
    yield from _pickles(sources)
    yield from _folders(sources)
    yield from _recipes(sources)
    yield from _runs(sources)
    yield from _corpora(sources)
    yield _names()
    yield from _onnx(sources)


# --- model files of our own -----------------------------------------------------------------------------------------


def _ours(sources: Path) -> Iterator[Format]:
    def read(path: Path) -> object:
        header = read_header(path)
        read_masks(path)
        return header, load(path)

    for name in ("wavlm", "data2vec", "whisper"):
        dense = sources / f"{name}.safetensors"
        save(dense, random_encoder(SHAPES[name]), provenance={"teacher": "WavLM-Base.pt", "recipe": "a: 1\nb: 2\n"})
        yield Format(f"safetensors, {name}", _file(dense, read, _spoiled_safetensors))
    sparse, encoder = sources / "sparse.safetensors", random_encoder(tiny_config())
    mask = torch.arange(24 * 40).view(24, 40) % 3 == 0
    with torch.no_grad():
        encoder.get_parameter("encoder.layers.1.fc2.weight").mul_(mask)
    save(sparse, encoder, masks={"encoder.layers.1.fc2.weight": mask})
    yield Format("safetensors, sparse", _file(sparse, read, _spoiled_safetensors))


def _spoiled_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Bytes, the header's tree, or the trees of JSON inside its metadata."""
    if rng.random() < 0.3:
        return spoiled_bytes(data, rng)
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.get("__metadata__", {})
    inner = [key for key in ("config", "provenance", "sparse") if key in metadata]
    if inner and rng.random() < 0.8:
        key = rng.choice(inner)
        metadata[key] = _as_json(spoiled_tree(json.loads(metadata[key]), rng), rng)
    else:
        header = spoiled_tree(header, rng)
    text = _as_json(header, rng).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + body


# --- published checkpoints ------------------------------------------------------------------------------------------


def _pickles(sources: Path) -> Iterator[Format]:
    for name, checkpoint in _published().items():

        def attack(rng: random.Random, folder: Path, checkpoint=checkpoint) -> Callable[[], object]:
            path = folder / "teacher.pt"
            tree = cyclic(checkpoint, rng) if rng.random() < 0.1 else spoiled_tensors(checkpoint, rng)
            _save(tree, path, zipped=rng.random() < 0.6)
            if rng.random() < 0.2:
                path.write_bytes(spoiled_bytes(path.read_bytes(), rng))
            return lambda: load_teacher(path)

        yield Format(f"checkpoint, {name}", attack)


def _published() -> dict[str, dict[str, Any]]:
    found: dict[str, Any] = {"WavLM": wavlm_checkpoint(random_encoder(tiny_config()))}
    whisper = random_encoder(SHAPES["whisper"])
    found["Whisper"] = {
        "dims": {"n_mels": 8, "n_audio_ctx": 20, "n_audio_state": 24, "n_audio_head": 4, "n_audio_layer": 3},
        "model_state_dict": {f"encoder.{name}": tensor for name, tensor in whisper.state_dict().items()},
    }
    try:
        from published import FORMS, fairseq_model
    except ImportError:  # without s3prl
        return found
    for form, build in FORMS.items():
        if "omegaconf" not in form:
            found[form] = _without_classes(build(*fairseq_model("hubert"), normalize=True))
    options = {"conv_feature_layers": "[(16, 10, 5), (16, 3, 2), (16, 2, 2)]", "encoder_layers": 2, "conv_pos": 8}
    options |= {
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 40,
        "encoder_attention_heads": 4,
        "conv_pos_groups": 4,
    }
    distilled = random_encoder(tiny_config(family="hubert", relative_position=None, feature_norm=False, num_layers=2))
    found["DistilHuBERT"] = {"Config": {"distiller": options}, "Distiller": distilled.state_dict(), "Step": 3}
    found["DPHuBERT"] = _dphubert()
    return found


def _without_classes(tree: Any) -> Any:
    """Plain containers, tensors and Namespaces; objects of fairseq, which could not be pickled here, become None."""
    if isinstance(tree, argparse.Namespace):
        return argparse.Namespace(**_without_classes(vars(tree)))
    if isinstance(tree, dict):
        return {key: _without_classes(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_classes(value) for value in tree]
    return tree if tree is None or isinstance(tree, torch.Tensor | str | int | float) else None


def _dphubert() -> dict[str, Any]:
    config = {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [(16, 10, 5), (16, 3, 2), (16, 2, 2)],
        "extractor_conv_bias": False,
        "encoder_embed_dim": 24,
        "encoder_pos_conv_kernel": 8,
        "encoder_pos_conv_groups": 4,
        "encoder_use_attention": [True, True],
        "encoder_use_feed_forward": [True, True],
        "encoder_num_heads": [4, 2],
        "encoder_head_dim": 6,
        "encoder_ff_interm_features": [40, 30],
        "encoder_layer_norm_first": False,
        "normalize_waveform": False,
    }
    from pruned_upstream.model.convert.peers import dphubert_config
    from pruned_upstream.model.convert.transformers import tensor_names

    encoder = random_encoder(dphubert_config(config))
    names = tensor_names(encoder.config, front_end="encoder.", encoder="encoder.transformer.")
    names["feature_extractor.dummy_weight"] = "feature_extractor.scale"
    own = encoder.state_dict()
    weights = {theirs: own[ours] for theirs, ours in names.items() if ours in own and "parametrizations" not in theirs}
    return {"config": config, "state_dict": weights}


def _save(tree: Any, path: Path, *, zipped: bool) -> None:
    """What torch cannot save stays as far as it came."""
    try:
        torch.save(tree, path, _use_new_zipfile_serialization=zipped)
    except (RuntimeError, AttributeError, TypeError, ValueError, pickle.PicklingError):
        path.touch()


# --- folders of transformers ----------------------------------------------------------------------------------------


def _folders(sources: Path) -> Iterator[Format]:
    from pruned_upstream.model.convert import native
    from pruned_upstream.transformers_plugin.folders import write_folder

    for name in ("wavlm", "hubert", "data2vec"):
        native.write(sources / f"hf_{name}", random_encoder(SHAPES[name]))
        yield Format(f"transformers folder, {name}", _folder(sources / f"hf_{name}"))
    encoder = random_encoder(tiny_config(num_layers=2))
    write_folder(sources / "hf_ours", random_encoder(tiny_config(prediction_heads=1)), {"teacher": "x"})
    yield Format("transformers folder, ours", _folder(sources / "hf_ours"))
    native.write(sources / "hf_parts", encoder)
    _split(sources / "hf_parts")
    yield Format("transformers folder, in parts", _folder(sources / "hf_parts"))


def _split(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / part)
    places = {name: part for part, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _folder(source: Path) -> Attack:
    def attack(rng: random.Random, folder: Path) -> Callable[[], object]:
        target = folder / "model"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        for _ in range(rng.choice((1, 1, 2))):
            file = rng.choice(sorted(target.iterdir()))
            if file.suffix == ".json" and rng.random() < 0.8:
                file.write_bytes(_spoiled_json(file.read_bytes(), rng))
            elif file.suffix == ".json" or rng.random() < 0.3:
                file.write_bytes(spoiled_bytes(file.read_bytes(), rng))
            elif file.suffix == ".safetensors" and rng.random() < 0.7:
                file.write_bytes(_spoiled_safetensors(file.read_bytes(), rng))
            elif rng.random() < 0.3:
                file.unlink()
        return lambda: load_teacher(target)

    return attack


def _spoiled_json(data: bytes, rng: random.Random) -> bytes:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return spoiled_bytes(data, rng)
    return _as_json(spoiled_tree(tree, rng), rng).encode("utf-8", "surrogatepass")


# --- recipes and runs -----------------------------------------------------------------------------------------------


def _recipes(sources: Path) -> Iterator[Format]:
    from pruned_upstream.resources import recipe_path
    from pruned_upstream.training.methods import METHODS
    from pruned_upstream.training.recipe import load_recipe

    for method in METHODS.values():
        source = recipe_path(method.base)

        def attack(rng: random.Random, folder: Path, source=source, schema=method.recipe_class):
            tree = yaml.safe_load(source.read_text()) | {"teacher": "teacher.pt"}
            tree.setdefault("run", {})["folder"] = "run"
            tree.setdefault("data", {})["train"] = ["speech"]
            path = folder / f"{rng.choice(('recipe', 'base', 'x'))}.yaml"
            if rng.random() < 0.6:
                path.write_text(_as_yaml(spoiled_tree(tree, rng), rng), encoding="utf-8", errors="replace")
            else:
                path.write_bytes(spoiled_bytes(yaml.safe_dump(tree).encode(), rng))
            overrides = [_override(tree, rng) for _ in range(rng.choice((0, 0, 1, 2)))]
            return lambda: load_recipe(path, schema, overrides)

        yield Format(f"recipe, {method.name}", attack)


def _override(tree: dict[str, Any], rng: random.Random) -> str:
    sections = [f"{name}.{key}" for name, section in tree.items() if isinstance(section, dict) for key in section]
    key = rng.choice([*sections, *map(str, tree), "", ".", "a.b.c", "data.train[0]", "run.folder.x"])
    value = rng.choice(
        ["", "[", "{", "${", "${x}", "${oc.env:HOME}", ".inf", "-1", "[1,", "*a", "&a [*a]", "!!python/x y"]
    )
    return rng.choice((f"{key}={value}", f"{key}={rng.choice(VALUES)!s}", key, f"{key}=={value}"))


def _runs(sources: Path) -> Iterator[Format]:
    from pruned_upstream.report.runs import read_run
    from pruned_upstream.superb.results import RunResults, TaskResult, read_results, write_results
    from pruned_upstream.training.state import KINDS, load_state, save_state

    run = sources / "run"
    run.mkdir(exist_ok=True)
    recipe = {"teacher": "x", "data": {"train": ["y"]}, "sparsity": {"target": 0.5}, "optimisation": {"steps": 4}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "report.json").write_text(json.dumps({"parameters": 3, "skipped": {}, "hours": 1.5, "test": [{"wer": 3.0}]}))
    (run / "launches.json").write_text(json.dumps([{"time": "t", "command": "c", "versions": {}, "from_step": 0}]))
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in range(1, 5)))

    def attack(rng: random.Random, folder: Path) -> Callable[[], object]:
        target = folder / "run"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(run, target)
        file = rng.choice(sorted(target.iterdir()))
        data = file.read_bytes()
        if file.suffix == ".json" and rng.random() < 0.7:
            file.write_bytes(_spoiled_json(data, rng))
        elif file.suffix == ".yaml" and rng.random() < 0.7:
            file.write_text(_as_yaml(spoiled_tree(yaml.safe_load(data), rng), rng), errors="replace")
        elif file.suffix == ".jsonl" and rng.random() < 0.7:
            file.write_bytes(b"".join(_spoiled_json(line, rng) + b"\n" for line in data.splitlines()))
        else:
            file.write_bytes(spoiled_bytes(data, rng))
        return lambda: read_run(target)

    yield Format("run folder", attack)

    tasks = {
        "ks": TaskResult({"acc": 91.5}, official=False, notes=("self-made data",)),
        "ic": TaskResult({"acc": 8.0}, True),
    }
    write_results(run, RunResults("small", "pruned_upstream", macs=(1, 2, 3, 4), tasks=tasks, provenance={"a": "b"}))
    results = (run / "results.yaml").read_bytes()
    (run / "results.yaml").unlink()

    def attack_results(rng: random.Random, folder: Path) -> Callable[[], object]:
        if rng.random() < 0.7:
            text = _as_yaml(spoiled_tree(yaml.safe_load(results), rng), rng)
            (folder / "results.yaml").write_text(text, encoding="utf-8", errors="replace")
        else:
            (folder / "results.yaml").write_bytes(spoiled_bytes(results, rng))
        return lambda: read_results(folder)

    yield Format("results.yaml", attack_results)

    whole = {name: 3 if kind is int else kind() for name, kind in KINDS.items()}
    save_state(sources / "state.pt", whole | {"recipe": {"a.b": 1}, "objective": {"w": torch.ones(30)}})
    state = torch.load(sources / "state.pt", weights_only=True)

    def attack_state(rng: random.Random, folder: Path) -> Callable[[], object]:
        path = folder / "state.pt"
        _save(spoiled_tensors(state, rng), path, zipped=True)
        if rng.random() < 0.5:
            path.write_bytes(spoiled_bytes(path.read_bytes(), rng))
        return lambda: load_state(path, device=torch.device("cpu"))

    yield Format("state.pt", attack_state)


def _corpora(sources: Path) -> Iterator[Format]:
    from pruned_upstream.training.corpus import find_corpus
    from pruned_upstream.training.transcripts import find_transcribed

    speech = sources / "speech"
    speech.mkdir(exist_ok=True)
    for number, ending in enumerate(("wav", "flac", "ogg")):
        wav = np.random.default_rng(number).normal(scale=0.1, size=4000)
        soundfile.write(speech / f"a-{number}.{ending}", wav, 16000)
    (speech / "a.trans.txt").write_text("a-0 SO IT IS\na-1 YES\na-2 NO\n")
    (speech / "list.tsv").write_text(f"{speech}\na-0.wav\t4000\na-1.flac\t4000\n")
    (speech / "list.wrd").write_text("SO IT IS\nYES\n")

    def attack(rng: random.Random, folder: Path) -> Callable[[], object]:
        target = folder / "speech"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(speech, target)
        cache = folder / "headers.json"
        cache.unlink(missing_ok=True)
        if rng.random() < 0.3:
            find_corpus([target], min_samples=400, cache=cache)
            cache.write_bytes(_spoiled_json(cache.read_bytes(), rng))
        for file in rng.sample(sorted(target.iterdir()), rng.choice((1, 1, 2))):
            file.write_bytes(spoiled_bytes(file.read_bytes(), rng))

        def read() -> object:
            manifest = rng.random() < 0.5
            source = target / "list.tsv" if manifest else target
            corpus = find_corpus([source], min_samples=400, cache=cache)
            find_transcribed([source], "letters", min_samples=400)
            for utterance in corpus.utterances:
                try:
                    utterance.read(0, min(utterance.samples, 16000))
                except Exception as error:
                    if type(error).__name__ != "BadRecording":  # the loop's own word for one to leave out
                        raise
            return corpus

        return read

    yield Format("recordings, manifests and transcripts", attack)


# --- names and ONNX -------------------------------------------------------------------------------------------------


def _names() -> Format:
    from pruned_upstream.model.hub import local_file, plain_name
    from pruned_upstream.resources import downstream_config_path, recipe_path

    parts = ("..", ".", "", "a", "A-b_c.d", "é", "a" * 300, "a b", "\0", "@", "~", "%2e%2e", "a@b", "\ud800", "\n")

    def attack(rng: random.Random, folder: Path) -> Callable[[], object]:
        name = "/".join(rng.choice(parts) for _ in range(rng.choice((1, 2, 3, 4))))
        name = rng.choice(("hf://", "hf:/", "", "/", str(folder) + "/")) + name
        readers = (local_file, plain_name, recipe_path, downstream_config_path, load, read_header, load_teacher)
        reader = rng.choice(readers)
        return lambda: reader(name)

    return Format("names and paths", attack)


def _onnx(sources: Path) -> Iterator[Format]:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        return
    from pruned_upstream.export import export_onnx
    from pruned_upstream.model.onnx_file import OnnxEncoder

    path = sources / "model.onnx"
    if not path.exists():
        export_onnx(random_encoder(tiny_config(num_layers=1)), path)
    data = path.read_bytes()

    def attack(rng: random.Random, folder: Path) -> Callable[[], object]:
        target = folder / "model.onnx"
        if rng.random() < 0.5:
            target.write_bytes(spoiled_bytes(data, rng))
        else:
            model = onnx.load_from_string(data)
            entry = next(entry for entry in model.metadata_props if entry.key == "config")
            entry.value = _as_json(spoiled_tree(json.loads(entry.value), rng), rng).encode("utf-8", "replace").decode()
            target.write_bytes(model.SerializeToString())
        return lambda: OnnxEncoder(target).extract([torch.zeros(1600), torch.zeros(900)])

    yield Format("ONNX", attack)


# --- shared ---------------------------------------------------------------------------------------------------------


def _file(source: Path, read: Callable[[Path], object], spoil: Callable[[bytes, random.Random], bytes]) -> Attack:
    data = source.read_bytes()

    def attack(rng: random.Random, folder: Path) -> Callable[[], object]:
        path = folder / source.name
        path.write_bytes(spoil(data, rng))
        return lambda: read(path)

    return attack


def _as_json(tree: Any, rng: random.Random) -> str:
    """JSON; now and then with a tail, a double key, or a nesting that no writer of JSON would make."""
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.9)
    odd = rng.random()
    if odd < 0.02:
        return "[" * 100_000 + "]" * 100_000
    if odd < 0.04:
        return text + "}"
    if odd < 0.06:
        return text.replace(":", ": " + "9" * 6000 + " ,", 1)
    return text


def _as_yaml(tree: Any, rng: random.Random) -> str:
    odd = rng.random()
    if odd < 0.03:
        rows = ["a: &a [x,x,x,x,x,x,x,x,x]"]
        rows += [f"{b}: &{b} [{','.join(['*' + a] * 9)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)]
        return "\n".join(rows)
    if odd < 0.05:
        return "a: &a {b: *a}\n" + yaml.safe_dump(tree)
    if odd < 0.07:
        return "[" * 5000
    return yaml.safe_dump(tree, allow_unicode=True)
