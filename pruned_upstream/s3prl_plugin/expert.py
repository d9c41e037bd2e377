"""The object that s3prl asks for features."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..errors import CheckpointError
from ..model.checkpoint import load


class UpstreamExpert(nn.Module):
    """A compact encoder that answers as s3prl's own WavLM expert does (s3prl, upstream/wavlm/expert.py).

    s3prl collects hidden states with forward hooks, which miss sublayers that are gone; the encoder returns
    them itself, so that none are needed. With `-f` the transformer is finetuned and the convolutions stay as they
    are, as s3prl does by `feature_grad_mult = 0`.

    Args:
        ckpt: path of a model file.
        name: the upstream's name, for messages.
        family: the family the file must be of; None takes any.

    Raises:
        CheckpointError: the file cannot be loaded, or is of another family.
    """

    def __init__(self, ckpt: str | Path, *, name: str = "pruned_upstream", family: str | None = None) -> None:
        super().__init__()
        self.model = load(ckpt)
        self.model.feature_extractor.requires_grad_(False)
        found = self.model.config.family
        if family is not None and found != family:
            raise CheckpointError(
                f"{ckpt} holds a model of the family {found}, and the upstream {name} takes {family} alone; "
                "-u pruned_upstream takes any"
            )

    def get_downsample_rates(self, key: str) -> int:
        """Samples a frame, the same for every hidden state."""
        return self.model.config.downsample_rate

    def forward(self, wavs: list[Tensor]) -> dict[str, tuple[Tensor, ...] | tuple[str, ...] | Tensor]:
        """Features of unpadded waveforms, (samples,) each at 16 kHz.

        Returns:
            `hidden_states`: L + 1 tensors (B, T, d); the same again one by one as `hidden_state_{i}`;
            `last_hidden_state`; `_hidden_states_info`: the name of the module each belongs to.
        """
        hidden_states = tuple(self.model.extract(wavs).hidden_states)
        layers = len(hidden_states) - 1
        return {
            "_hidden_states_info": (*(f"self.model.encoder.layers[{i}]" for i in range(layers)), "self.model.encoder"),
            "hidden_states": hidden_states,
            "last_hidden_state": hidden_states[-1],
            **{f"hidden_state_{i}": state for i, state in enumerate(hidden_states)},
        }
