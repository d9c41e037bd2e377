"""Which extra of the package brings which library, for sentences about one that is missing.

`pip install pruned_upstream` brings what `load` needs: torch, safetensors and numpy. Everything else is in an extra.
"""

from __future__ import annotations

# import name -> extra, as setup.py has them
EXTRA_OF = {
    "typer": "cli",
    "rich": "cli",
    "jinja2": "train",
    "jiwer": "train",
    "matplotlib": "train",
    "omegaconf": "train",
    "scipy": "train",
    "soundfile": "train",
    "submitit": "train",
    "tabulate": "train",
    "tensorboard": "train",
    "yaml": "train",
    "dtw": "superb",
    "editdistance": "superb",
    "h5py": "superb",
    "huggingface_hub": "superb",
    "joblib": "superb",
    "librosa": "superb",
    "lxml": "superb",
    "pandas": "superb",
    "pyannote": "superb",
    "s3prl": "superb",
    "sklearn": "superb",
    "sox": "superb",
    "soxr": "superb",
    "tensorboardX": "superb",
    "torchaudio": "superb",
    "tqdm": "superb",
    "espeakng_loader": "demo",
    "flashlight": "lm",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "transformers": "transformers",
}


def remedy(module: str) -> str | None:
    """How to get a library that could not be imported; None for one that no extra brings.

    >>> remedy("s3prl.hub")
    "the package 's3prl' is missing; pip install 'pruned_upstream[superb]' brings it"
    """
    name = module.partition(".")[0]
    extra = EXTRA_OF.get(name)
    if extra is None:
        return None
    return f"the package '{name}' is missing; pip install 'pruned_upstream[{extra}]' brings it"
