"""Our models through transformers' own doors: Auto classes, saving, heads, the Trainer."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from tiny import SHAPES, largest_difference, random_encoder, tiny_config

import pruned_upstream
from pruned_upstream.errors import ConfigError, DataError
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.config import Head, TransformerLayer
from pruned_upstream.model.convert import load_teacher
from pruned_upstream.release import write_release
from pruned_upstream.transformers_plugin.folders import write_folder

transformers = pytest.importorskip("transformers")
LAYERS = (
    TransformerLayer(True, (Head(0, 3, 5), Head(2, 6, 1)), True, 7),
    TransformerLayer(True, (), True, 0),
    TransformerLayer(False, (), False, 0),
)
COMPACT = dataclasses.replace(tiny_config(), layers=LAYERS)
# transformers' rule for which frames are padding; fairseq's, which WavLM was trained with, at times counts one more
WAVLM = dataclasses.replace(SHAPES["wavlm"], padding="exact")


@pytest.fixture
def released(tmp_path):
    """A released compact model: its folder, and the encoder."""
    encoder = random_encoder(COMPACT)
    save(tmp_path / "compact.safetensors", encoder)
    write_release(tmp_path / "compact.safetensors", tmp_path / "release", name="small", license="mit")
    return tmp_path / "release", encoder


def batch(samples: int = 3000) -> dict[str, torch.Tensor]:
    """Two recordings, the second padded from its half."""
    torch.manual_seed(3)
    values, mask = torch.randn(2, samples), torch.ones(2, samples, dtype=torch.long)
    values[1, samples // 2 :] = mask[1, samples // 2 :] = 0
    return {"input_values": values, "attention_mask": mask}


@torch.no_grad()
def test_a_released_folder_is_an_auto_model(released):
    folder, encoder = released
    model = transformers.AutoModel.from_pretrained(folder)
    given = batch()
    output = model(**given, output_hidden_states=True)
    expected = encoder(given["input_values"], given["attention_mask"].sum(-1)).hidden_states
    assert len(output.hidden_states) == COMPACT.num_layers + 1
    for theirs, ours in zip(output.hidden_states, expected, strict=True):
        assert torch.equal(theirs, ours)
    assert torch.equal(output.last_hidden_state, expected[-1])
    last, states = model(**given, output_hidden_states=True, return_dict=False)
    assert torch.equal(last, expected[-1]) and len(states) == COMPACT.num_layers + 1
    assert model(**given).hidden_states is None


def test_the_feature_extractor_beside_it(released):
    folder, encoder = released
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    wavs = [torch.randn(800).numpy(), torch.randn(500).numpy()]
    given = extractor(wavs, sampling_rate=16000, padding=True, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        ours = encoder.extract([torch.from_numpy(wav) for wav in wavs]).hidden_states[-1]
        theirs = model(**given).last_hidden_state
    assert largest_difference(theirs[:, :30], ours[:, :30]) < 1e-5
    with pytest.raises(ValueError, match="8000"):
        extractor(wavs, sampling_rate=8000)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 30), r"attention_mask is of shape \(2, 30\) and input_values of \(2, 800\)"),
        (torch.tensor([[1] * 800, [0] * 300 + [1] * 500]), "a recording must stand before its padding"),
        (torch.tensor([[1] * 800, [1, 0] * 400]), "a recording must stand before its padding"),
    ],
)
@torch.no_grad()
def test_masks_that_say_something_else(released, mask, message):
    model = transformers.AutoModel.from_pretrained(released[0])
    with pytest.raises(DataError, match=message):
        model(torch.randn(2, 800), attention_mask=mask)


@torch.no_grad()
def test_saved_and_loaded_again(released, tmp_path):
    folder, encoder = released
    model = transformers.AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoModel.from_pretrained(tmp_path / "again")
    ours = load_teacher(tmp_path / "again")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[name], tensor)
        assert torch.equal(ours.state_dict()[name], tensor)


@pytest.mark.parametrize("name", ["wavlm", "wavlm_prenorm", "hubert", "distilhubert", "wav2vec2_prenorm", "data2vec"])
@torch.no_grad()
def test_a_dense_model_becomes_transformers_own_class(tmp_path, name):
    encoder = random_encoder(SHAPES[name])
    write_folder(tmp_path / "folder", encoder, {})
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "folder").eval()
    assert type(theirs).__module__.startswith("transformers.models.")
    values = torch.randn(2, 900)
    output = theirs(values, output_hidden_states=True)
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    for one, other in zip(states, encoder(values).hidden_states, strict=True):
        assert largest_difference(one, other) < 1e-5
    again = load_teacher(tmp_path / "folder")
    assert again.state_dict().keys() == encoder.state_dict().keys()
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


@torch.no_grad()
def test_a_dense_wavlm_in_our_class_equals_theirs(tmp_path):
    from pruned_upstream.transformers_plugin import PrunedUpstreamConfig, PrunedUpstreamModel

    encoder = random_encoder(WAVLM)
    write_folder(tmp_path / "folder", encoder, {})
    theirs = transformers.WavLMModel.from_pretrained(tmp_path / "folder").eval()
    ours = PrunedUpstreamModel(PrunedUpstreamConfig.of(WAVLM)).eval()
    ours.backbone.load_state_dict(encoder.state_dict())
    given = batch()
    one, other = (model(**given, output_hidden_states=True).hidden_states for model in (ours, theirs))
    frames = WAVLM.frames(1500)
    for ours_state, their_state in zip(one, other, strict=True):
        assert largest_difference(ours_state[:1], their_state[:1]) < 1e-5
        assert largest_difference(ours_state[1:, :frames], their_state[1:, :frames]) < 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
def test_ctc_loss_is_transformers_and_learns(released, checkpointing):
    folder, encoder = released
    torch.manual_seed(1)
    model = transformers.AutoModelForCTC.from_pretrained(folder, vocab_size=7).train()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor)
    given, labels = batch(), torch.tensor([[1, 2, 3], [4, 5, -100]])
    plain = model(**given, labels=labels)
    plain.loss.backward()
    gradient = model.backbone.encoder.layers[0].final_layer_norm.weight.grad.clone()
    model.zero_grad()
    if checkpointing:
        model.activation_checkpointing_enable()
        again = model(**given, labels=labels)
        again.loss.backward()
        assert model.is_gradient_checkpointing and torch.equal(again.loss, plain.loss)
        assert largest_difference(model.backbone.encoder.layers[0].final_layer_norm.weight.grad, gradient) < 1e-5
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(5):
        optimiser.zero_grad()
        loss = model(**given, labels=labels).loss
        loss.backward()
        optimiser.step()
    assert loss < plain.loss


def test_the_ctc_head_equals_transformers(tmp_path):
    encoder = random_encoder(WAVLM)
    write_folder(tmp_path / "folder", encoder, {})
    theirs = transformers.WavLMForCTC.from_pretrained(
        tmp_path / "folder", vocab_size=7, hidden_dropout=0, final_dropout=0, layerdrop=0
    ).eval()
    from pruned_upstream.transformers_plugin import PrunedUpstreamConfig, PrunedUpstreamForCTC

    ours = PrunedUpstreamForCTC(PrunedUpstreamConfig.of(WAVLM, vocab_size=7)).eval()
    ours.backbone.load_state_dict(encoder.state_dict())
    ours.lm_head.load_state_dict(theirs.lm_head.state_dict())
    given, labels = batch(), torch.tensor([[1, 2, 3], [4, 5, -100]])
    one, other = (model(**given, labels=labels).loss for model in (ours, theirs))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_classifier_equals_transformers(tmp_path, weighted):
    encoder = random_encoder(WAVLM)
    write_folder(tmp_path / "folder", encoder, {})
    options = dict(num_labels=5, use_weighted_layer_sum=weighted)
    theirs = transformers.WavLMForSequenceClassification.from_pretrained(tmp_path / "folder", **options).eval()
    from pruned_upstream.transformers_plugin import PrunedUpstreamConfig, PrunedUpstreamForSequenceClassification

    config = PrunedUpstreamConfig.of(WAVLM, **options)
    ours = PrunedUpstreamForSequenceClassification(config).eval()
    ours.backbone.load_state_dict(encoder.state_dict())
    for head in ("projector", "classifier"):
        getattr(ours, head).load_state_dict(getattr(theirs, head).state_dict())
    if weighted:
        ours.layer_weights.data.copy_(theirs.layer_weights)
    given, labels = batch(), torch.tensor([1, 4])
    one, other = (model(**given, labels=labels) for model in (ours, theirs))
    assert largest_difference(one.logits, other.logits) < 1e-5
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=0)


def test_a_new_weighted_sum_starts_as_the_mean(released):
    folder, _ = released
    loaded = transformers.AutoModelForAudioClassification.from_pretrained
    model = loaded(folder, num_labels=3, use_weighted_layer_sum=True)
    assert model.layer_weights.tolist() == pytest.approx([1 / 4] * 4)


def test_what_the_heads_refuse(released):
    folder, _ = released
    with pytest.raises(ValueError, match="vocab_size"):
        transformers.AutoModelForCTC.from_pretrained(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder, vocab_size=4)
    with pytest.raises(ValueError, match="a label is 9"):
        model(torch.randn(1, 900), labels=torch.tensor([[9]]))


def test_the_trainer_runs_a_few_steps(released, tmp_path):
    pytest.importorskip("accelerate")
    folder, _ = released
    model = transformers.AutoModelForAudioClassification.from_pretrained(folder, num_labels=3)
    rows = [{"input_values": torch.randn(900), "labels": i % 3} for i in range(6)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=3, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        activation_checkpointing=True, save_strategy="no",
    )  # fmt: skip
    before = model.classifier.weight.detach().clone()
    result = transformers.Trainer(model=model, args=arguments, train_dataset=rows).train()
    assert result.global_step == 3 and not torch.equal(before, model.classifier.weight)


@pytest.mark.parametrize("imported", [False, True])
def test_as_remote_code_without_an_import_of_ours(released, tmp_path, imported):
    """A released folder, then one that its model saved; `imported`: by who had imported the package."""
    folder, _ = released
    if imported:
        transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "saved")
        folder = tmp_path / "saved"
    code = (
        "import sys, transformers\n"
        "for folder in sys.argv[1:]:\n"
        "    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)\n"
        "    model.save_pretrained(sys.argv[2])\n"
        "print(type(model).__name__, sum(p.numel() for p in model.parameters()))\n"
    )
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "again"], env=environment, capture_output=True, text=True
    )
    count = sum(p.numel() for p in pruned_upstream.load(released[0] / "model.safetensors").parameters())
    assert done.stdout == f"PrunedUpstreamModel {count}\n", done.stderr


@torch.no_grad()
def test_arguments_that_would_do_nothing_are_refused(released):
    """A misspelt mask would be a padded batch taken as a whole one."""
    model, given = transformers.AutoModel.from_pretrained(released[0]), batch()
    model(**given, output_attentions=False, use_cache=None)
    for others, message in (
        ({"attention_masks": given["attention_mask"]}, "takes no attention_masks"),
        ({"output_attentions": True}, "attention weights are never laid out"),
        ({"mask_time_indices": torch.ones(2, 3)}, "takes no mask_time_indices"),
    ):
        with pytest.raises(TypeError, match=message):
            model(given["input_values"], **others)
    for values, mask in ((given["input_values"].numpy(), None), (given["input_values"], [[1] * 3000] * 2)):
        with pytest.raises(DataError, match="must be a tensor"):
            model(values, mask)


@torch.no_grad()
def test_masks_of_every_type(released):
    model, given = transformers.AutoModel.from_pretrained(released[0]), batch()
    expected = model(**given).last_hidden_state
    for dtype in (torch.bool, torch.int32, torch.uint8, torch.float16):
        assert torch.equal(model(given["input_values"], given["attention_mask"].to(dtype)).last_hidden_state, expected)
    long = torch.ones(1, 70_000, dtype=torch.float16)  # more than half precision can count
    model(torch.randn(1, 70_000), long)


def test_accumulated_batches_are_one_batch(released, tmp_path):
    """Losses are means: Trainer divides them where a model does not say that it scales them itself."""

    class Clips(torch.utils.data.Dataset):
        def __init__(self):
            generator = torch.Generator().manual_seed(7)
            self.waveforms = torch.randn(4, 800, generator=generator)

        def __len__(self):
            return 4

        def __getitem__(self, i):
            return {"input_values": self.waveforms[i], "labels": torch.tensor(i % 2)}

    moved = []
    for size, accumulation in ((4, 1), (2, 2), (1, 4)):
        torch.manual_seed(0)
        model = transformers.AutoModelForAudioClassification.from_pretrained(released[0], num_labels=2)
        before = model.classifier.weight.detach().clone()
        arguments = transformers.TrainingArguments(
            tmp_path / "run", max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation,
            optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0, report_to=[],
            use_cpu=True, disable_tqdm=True, save_strategy="no",
        )  # fmt: skip
        transformers.Trainer(model, arguments, train_dataset=Clips()).train()
        moved.append(model.classifier.weight.detach() - before)
    assert largest_difference(moved[1:], [moved[0]] * 2) < 1e-4


@pytest.mark.parametrize("options", [{"hidden_dropout": 2.0}, {"layerdrop": -1.0}])
def test_dropout_is_a_probability(released, options):
    with pytest.raises(ConfigError, match="be a probability"):
        transformers.AutoModel.from_pretrained(released[0], **options)


def test_labels_of_recordings_without_words(released):
    model = transformers.AutoModelForCTC.from_pretrained(released[0], vocab_size=5)
    assert model(**batch(), labels=torch.ones(2, 0, dtype=torch.long)).loss.isfinite()
    for size in (None, 0, -3, "32"):
        with pytest.raises(ValueError, match="a CTC head needs vocab_size"):
            transformers.AutoModelForCTC.from_pretrained(released[0], vocab_size=size)
