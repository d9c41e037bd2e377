"""What pruned_upstream needs, as ranges; `constraints.txt` pins the versions that demo, tests and CI run with."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "pruned_upstream" / "__init__.py").read_text(), re.MULTILINE)[1]
README = HERE / "README.md"

# what `load` needs, and no more
CORE = [
    "torch>=2.5",
    "safetensors>=0.4.3",
    "numpy>=2.0",
]
COMMAND_LINE = [
    "rich>=13.8",
    "typer>=0.12",
]
TRAINING = [
    *COMMAND_LINE,
    "jinja2>=3.1",
    "jiwer>=3.0",
    "matplotlib>=3.8",
    "omegaconf>=2.3,<2.5",
    "pyyaml>=6.0",
    "scipy>=1.13",
    "soundfile>=0.12.1",
    "submitit>=1.5",
    "tabulate>=0.9",
    "tensorboard>=2.17",
]
# s3prl, and what its ten SUPERB tasks import without declaring it
SUPERB = [
    *TRAINING,
    "s3prl>=0.4.18,<0.5",
    "torchaudio>=2.5",
    "dtw-python>=1.5",
    "editdistance>=0.8",
    "h5py>=3.11",
    "huggingface_hub>=0.25",
    "joblib>=1.4",
    "librosa>=0.10.2",
    "lxml>=5.2",
    "pandas>=2.2",
    "pyannote.metrics>=4.0",
    "scikit-learn>=1.5",
    "sox>=1.5",
    "soxr>=0.4",
    "tensorboardX>=2.6",
    "tqdm>=4.66",
]

EXTRAS = {
    "cli": COMMAND_LINE,  # info, convert
    "train": TRAINING,
    "superb": SUPERB,
    "demo": [*SUPERB, "espeakng-loader>=0.2.4"],
    "lm": ["flashlight-text>=0.0.7"],  # beam search with a KenLM model
    "onnx": [*COMMAND_LINE, "onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],
    "transformers": ["transformers>=5.0"],
    "fairseq": ["ve-fairseq>=0.12.3"],  # 0.12 for new Pythons, an oracle of tests alone; its files are read without it
    "dev": [
        "accelerate>=1.10",
        "hypothesis>=6.100",
        "meeteval>=0.4",
        "mkdocs>=1.6",
        "mkdocstrings>=1.0",
        "mkdocstrings-python>=2.0",
        "mypy>=1.15",
        "packaging>=24.0",
        "peft>=0.18",
        "pytest>=8.2",
        "pytest-xdist>=3.6",
        "ruff>=0.6",
        "types-PyYAML>=6.0",
        "types-tabulate>=0.9",
    ],
}

setup(
    name="pruned_upstream",
    version=VERSION,
    description="Compact self-supervised speech encoders by structured pruning with distillation, as s3prl upstreams",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    author="The pruned_upstream contributors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require=EXTRAS,
    packages=[
        # corpora and teacher of demo and tests stay in the checkout
        *find_packages(
            include=["pruned_upstream", "pruned_upstream.*"],
            exclude=["pruned_upstream.miniature", "pruned_upstream.miniature.*"],
        ),
        "pruned_upstream.recipes",
        "pruned_upstream.downstream_configs",
    ],
    # at the top level of the repository for its readers, inside the package once installed
    package_dir={
        "pruned_upstream.recipes": "recipes",
        "pruned_upstream.downstream_configs": "downstream_configs",
    },
    package_data={"": ["*.yaml", "*.csv", "*.html", "*.json", "*.txt", "py.typed"]},
    entry_points={
        "console_scripts": [
            "pruned-upstream = pruned_upstream.cli:main",
            "run_downstream.py = pruned_upstream.run_downstream:main",
        ],
    },
)
