"""The object that s3prl asks for features."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..model.checkpoint import load
from ..model.encoder import Encoder, EncoderOutput
from ..model.header import is_onnx
from ..model.hub import local_file
from ..model.onnx_file import OnnxEncoder
from ..parsing import read_yaml, require, require_one_of, shown

PRECISIONS = ("fp32", "bf16")
STATES = ("layers", "distilhubert")


@dataclass(frozen=True)
class Options:
    """What may be asked of a compact upstream that torch computes; s3prl's `-g` names a YAML file with these keys.

    Attributes:
        precision: "fp32", or "bf16" for autocast. The second is faster on hardware that has it, and another result.
        states: what `hidden_states` are, and so what s3prl's weighted sum is of: "layers", the input of the first layer
            and the output of each; or "distilhubert", as s3prl's own DistilHuBERT has them: projected features,
            outputs of the layers, predictions of the teacher's layers (s3prl, upstream/distiller/expert.py).
        graphs: whether a GPU replays the transformer from CUDA graphs (model/graphs.py): the same result, sooner where
            batches are small. A CPU has none.
    """

    precision: str = "fp32"
    states: str = "layers"
    graphs: bool = False

    def __post_init__(self) -> None:
        require_one_of("precision", self.precision, PRECISIONS)
        require(isinstance(self.graphs, bool), "graphs", self.graphs, "be true or false")
        require_one_of("states", self.states, STATES)

    @classmethod
    def read(cls, path: str | Path) -> Options:
        """Raises ConfigError: the file cannot be read, or says something else."""
        try:
            tree = read_yaml(Path(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the upstream's options {path} cannot be read: {error}") from error
        if not isinstance(tree, dict) or not tree.keys() <= {"precision", "states", "graphs"}:
            raise ConfigError(
                f"{path} holds {shown(tree)}; a compact upstream takes `precision: bf16`, `states: distilhubert`, "
                "`graphs: true` and nothing else"
            )
        return cls(**tree)


class UpstreamExpert(nn.Module):
    """A compact encoder that answers as s3prl's own WavLM expert does (s3prl, upstream/wavlm/expert.py).

    s3prl collects hidden states with forward hooks, which miss sublayers that are gone; the encoder returns
    them itself, so that none are needed. With `-f` the transformer is finetuned and the convolutions stay as they
    are, as s3prl does by `feature_grad_mult = 0`; an ONNX file cannot be finetuned.

    Args:
        ckpt: path of a model file, or of an ONNX file exported from one; or a name on the hub (`model/hub.py`).
        name: the upstream's name, for messages.
        family: the family the file must be of; None takes any.

    Raises:
        CheckpointError: the file cannot be loaded, or is of another family.
        ConfigError: there are options for an ONNX file.
    """

    def __init__(
        self,
        ckpt: str | Path,
        *,
        name: str = "pruned_upstream",
        family: str | None = None,
        options: Options | None = None,
    ) -> None:
        super().__init__()
        self.options = options or Options()
        self.model = _opened(local_file(ckpt), options)
        if self.options.states == "distilhubert" and not self.model.config.prediction_heads:
            raise ConfigError(
                f"{ckpt} holds no prediction heads, which `states: distilhubert` asks for; keep them with "
                "distillation.keep_heads=true, or `pruned-upstream convert --keep-heads`"
            )
        found = self.model.config.family
        if family is not None and found != family:
            raise CheckpointError(
                f"{ckpt} holds a model of the family {found}, and the upstream {name} takes {family} alone; "
                "-u pruned_upstream takes any"
            )

    def get_downsample_rates(self, key: str) -> int:
        """Samples per frame, the same for every hidden state."""
        return self.model.config.downsample_rate

    def forward(self, wavs: list[Tensor]) -> dict[str, tuple[Tensor, ...] | tuple[str, ...] | Tensor]:
        """Features of unpadded waveforms, (samples,) each at 16 kHz.

        Returns:
            `hidden_states`: L + 1 tensors (B, T, d); the same again one by one as `hidden_state_{i}`;
            `last_hidden_state`; `_hidden_states_info`: the name of the module each belongs to. A DistilHuBERT has
            `paper`, too, the last layer's output, which its published rows use (`-s paper`); with the option
            `states: distilhubert` its hidden states are those of s3prl.

        Raises:
            DataError: all waveforms are shorter than the front end's receptive field.
            ConfigError: an ONNX file is to be finetuned.
        """
        if isinstance(self.model, OnnxEncoder) and self.training and torch.is_grad_enabled():
            raise ConfigError(
                f"{self.model.path} cannot be finetuned; leave out -f (in Python: call it in eval mode or under "
                "torch.no_grad()), or finetune the model file it was exported from"
            )
        with self._precision():
            output = self.model.extract(wavs)
            last = output.hidden_states[-1]
            if self.options.states == "layers":
                states = list(output.hidden_states)
            else:
                # of a model file, for an ONNX file holds no heads
                predicted = [head(last) for head in cast(Encoder, self.model).prediction_heads]
                states = [cast(EncoderOutput, output).projected, *output.hidden_states[1:], *predicted]
        hidden_states = tuple(state.float() for state in states)
        return {
            "_hidden_states_info": self._places(),
            "hidden_states": hidden_states,
            "last_hidden_state": hidden_states[-1],
            **({"paper": last.float()} if self._is_distilhubert else {}),
            **{f"hidden_state_{i}": state for i, state in enumerate(hidden_states)},
        }

    @property
    def _is_distilhubert(self) -> bool:
        return self.model.config.prediction_heads > 0 or not self.model.config.feature_norm

    def _places(self) -> tuple[str, ...]:
        """Names of the modules whose input (of a layer) or output each hidden state is."""
        layers = [f"self.model.encoder.layers[{i}]" for i in range(self.model.config.num_layers)]
        if self.options.states == "layers":
            return (*layers, "self.model.encoder")
        heads = [f"self.model.prediction_heads[{i}]" for i in range(self.model.config.prediction_heads)]
        return ("self.model.post_extract_proj", *layers, *heads)

    def _precision(self) -> AbstractContextManager:
        if self.options.precision == "fp32":
            return nullcontext()  # whatever the caller has set stays
        return torch.autocast(next(self.parameters()).device.type, torch.bfloat16)


def _opened(path: Path, options: Options | None) -> Encoder | OnnxEncoder:
    if not is_onnx(path):
        encoder = load(path, graphs=options is not None and options.graphs)
        encoder.feature_extractor.requires_grad_(False)
        return encoder
    if options is not None:
        raise ConfigError(f"{path} computes as it was exported and takes no options; leave out -g")
    return OnnxEncoder(path)
