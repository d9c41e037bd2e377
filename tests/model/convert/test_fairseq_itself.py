"""Where fairseq is installed, it is the oracle itself: it builds, saves and runs the models that we read."""

from __future__ import annotations

import pytest
import torch
from published import BASE_WIDTH, LARGE, LARGE_WIDTH, TINY, randomise
from tiny import largest_difference, unequal_waveforms

from pruned_upstream.model.convert import load_teacher

pytest.importorskip(
    "fairseq.models.hubert", reason="fairseq is not installed (the extra `fairseq`)", exc_type=ImportError
)

CASES = {
    "hubert": ("hubert", TINY, False),
    "hubert_large": ("hubert", TINY | LARGE, True),
    "hubert_base_width": ("hubert", BASE_WIDTH, False),
    "hubert_large_width": ("hubert", LARGE_WIDTH, True),
    "wav2vec2": ("wav2vec2", TINY, False),
    "wav2vec2_base_width": ("wav2vec2", BASE_WIDTH, False),
    "wav2vec2_lv60_width": ("wav2vec2", LARGE_WIDTH | {"conv_bias": True}, True),
    "data2vec": ("data2vec", TINY | {"extractor_mode": "layer_norm", "pos_conv_depth": 3}, True),
    "data2vec_base_width": (
        "data2vec",
        BASE_WIDTH | {"extractor_mode": "layer_norm", "conv_pos": 95, "pos_conv_depth": 5},
        True,
    ),
}


def build(kind, options):
    """fairseq's model of `options`, its configuration and what its task would save."""
    from fairseq.data.dictionary import Dictionary

    dictionary = Dictionary()
    dictionary.add_symbol("a")
    if kind == "hubert":
        from fairseq.models.hubert import HubertConfig, HubertModel
        from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

        config = HubertConfig(label_rate=50, **options)
        return HubertModel(config, HubertPretrainingConfig(), [dictionary]), config, {"dictionaries": [dictionary]}
    if kind == "wav2vec2":
        from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model

        config = Wav2Vec2Config(quantize_targets=True, latent_vars=6, latent_dim=8, **options)
        return Wav2Vec2Model(config), config, {}
    module = pytest.importorskip("fairseq.examples.data2vec.models.data2vec_audio", exc_type=ImportError)
    config = module.Data2VecAudioConfig(**options)
    return module.Data2VecAudioModel(config), config, {}


def save(path, model, config, normalize, task_state):
    """As fairseq/trainer.py's `state_dict` and checkpoint_utils.py's `torch_persistent_save` do."""
    from fairseq.checkpoint_utils import torch_persistent_save
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"task": {"_name": "audio", "normalize": normalize}, "optimization": {"max_update": 1}})
    cfg.model = OmegaConf.structured(config)
    cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    state = {
        "args": None,
        "cfg": cfg,
        "model": model.state_dict(),
        "criterion": {},
        "optimizer_history": [{"criterion_name": "HubertCriterion", "num_updates": 1}],
        "task_state": task_state,
        "extra_state": {"previous_training_time": 1.0},
        "last_optimizer_state": None,
    }
    torch_persistent_save(state, str(path))


@pytest.mark.parametrize("name", sorted(CASES))
@torch.no_grad()
def test_fairseqs_own_file_and_hidden_states(name, tmp_path):
    kind, options, normalize = CASES[name]
    model, config, task_state = build(kind, options)
    randomise(model)
    model.eval()
    config._name = {"data2vec": "data2vec_audio"}.get(kind, kind)
    save(tmp_path / "model.pt", model, config, normalize, task_state)
    ours = load_teacher(tmp_path / "model.pt")
    waveforms, lengths = ours.prepare(unequal_waveforms((16000, 9000) if "width" in name else (1600, 1111, 640)))
    output = ours(waveforms, lengths)
    states = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda module, args, out: states.append(args[0].transpose(0, 1)))
    model.encoder.register_forward_hook(lambda module, args, out: states.append(out[0]))
    model.extract_features(waveforms, padding_mask=torch.arange(waveforms.size(1)) >= lengths[:, None], mask=False)
    states = [state[:, : states[-1].size(1)] for state in states]
    assert largest_difference(output.hidden_states, states, output.padding_mask) <= 1e-5
