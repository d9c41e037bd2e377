"""What people do to a torch module acts on an encoder: nothing that is done to one of its parts may be passed over."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from tiny import SHAPES, fairseq_options, largest_difference, random_encoder, tiny_config, unequal_waveforms
from torch import nn
from torch.nn.utils import parametrize, prune

from pruned_upstream.model import frontend
from pruned_upstream.model.config import Head, TransformerLayer
from pruned_upstream.model.encoder import Dropout, Encoder
from pruned_upstream.model.frontend import WeightNormConv
from pruned_upstream.model.gating import EncoderGates, LayerGates

RAGGED = (
    TransformerLayer(True, (Head(0, 3, 5), Head(2, 6, 1), Head(3, 0, 4)), True, 7),
    TransformerLayer(True, (), True, 0),  # two sublayers that are their output bias
)
CONFIGS = {name: SHAPES[name] for name in ("wavlm", "wavlm_prenorm", "data2vec")}
CONFIGS["ragged"] = dataclasses.replace(tiny_config(), layers=RAGGED)
MAPS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@pytest.fixture(params=sorted(CONFIGS))
def encoder(request) -> Encoder:
    return random_encoder(CONFIGS[request.param])


def gates_of(encoder: Encoder) -> EncoderGates:
    generator = torch.Generator().manual_seed(4)

    def draw(size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator) + 0.5

    layers = [
        LayerGates(draw(sum(h.qk for h in layer.heads)), draw(sum(h.vo for h in layer.heads)), draw(layer.ffn))
        for layer in encoder.config.layers
    ]
    return EncoderGates(layers, [draw(layer.channels) for layer in encoder.config.conv])


def states(encoder: nn.Module, gates: EncoderGates | None = None, dtype: torch.dtype = torch.float32):
    waveforms = torch.randn(2, 800, generator=torch.Generator().manual_seed(3)).to(dtype)
    return encoder(waveforms, torch.tensor([800, 555]), gates=gates).hidden_states


def same_weights_elsewhere(encoder: Encoder) -> Encoder:
    """A new module with these weights, which cannot know what was done to the old one or what it computed before."""
    fresh = Encoder(encoder.config).eval()
    fresh.load_state_dict({name: value.clone() for name, value in encoder.state_dict().items()})
    return fresh


def parts(encoder: Encoder):
    """All modules that compute; the rest are containers."""
    containers = (nn.ModuleList, nn.Sequential, Encoder)
    return [(name, module) for name, module in encoder.named_modules() if not isinstance(module, containers)]


# what acts on modules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_hook_on_any_part_fires_and_what_it_gives_counts(encoder, dtype, gated):
    encoder = encoder.to(dtype)
    gates = gates_of(encoder) if gated else None
    if gated and dtype == torch.bfloat16:
        pytest.skip("gates are in single precision; autocast computes with them in bfloat16")
    before = states(encoder, gates, dtype)
    for name, module in parts(encoder):
        if not torch.is_tensor(module_output(encoder, module, gates, dtype)):
            continue  # the transformer, whose output is a list
        handle = module.register_forward_hook(lambda module, inputs, output: output * 0.5 + 0.1)
        after = states(encoder, gates, dtype)
        handle.remove()
        changed = [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]
        assert any(changed), f"a hook on {name} changed nothing"
    again = states(encoder, gates, dtype)
    assert all(torch.equal(a, b) for a, b in zip(again, before, strict=True))


def module_output(encoder, module, gates, dtype):
    seen = []
    with module.register_forward_hook(lambda module, inputs, output: seen.append(output)):
        states(encoder, gates, dtype)
    assert seen, f"a hook on {type(module).__name__} did not fire"
    return seen[0]


@torch.no_grad()
def test_another_module_in_its_place_is_called(encoder):
    """As adapters, quantisation and FSDP put one; the weights it shows are not those it computes with."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    before = states(encoder)
    for name, module in parts(encoder):
        if type(module) is not nn.Linear or not module.out_features:
            continue
        other = Doubled(module.in_features, module.out_features)
        other.load_state_dict(module.state_dict())
        doubled = copy.deepcopy(encoder)
        doubled.set_submodule(name, other)
        weights = copy.deepcopy(encoder)
        weights.get_submodule(name).weight.mul_(2)
        weights.get_submodule(name).bias.mul_(2)
        for gates in (None, gates_of(encoder)):
            assert largest_difference(states(doubled, gates), states(weights, gates)) < 1e-5, name
        assert largest_difference(states(doubled), before) > 0 or name.endswith("k_proj"), name


def test_a_replaced_forward_is_called(encoder):
    linear = next(module for name, module in parts(encoder) if name.endswith("fc2"))
    if not isinstance(linear, nn.Linear):
        pytest.skip("no feed-forward in the first layer")
    plain = linear.forward
    linear.forward = lambda x: 3 * plain(x)
    wanted = copy.deepcopy(encoder)
    del wanted.encoder.layers[0].fc2.forward
    with torch.no_grad():
        wanted.encoder.layers[0].fc2.weight.mul_(3), wanted.encoder.layers[0].fc2.bias.mul_(3)
    gates = gates_of(encoder)
    assert largest_difference(states(encoder, gates), states(wanted, gates)) < 1e-5


# what writes to parameters -------------------------------------------------------------------------------------------


def through_data(parameter):
    parameter.data.mul_(0.5)


def through_numpy(parameter):
    parameter.detach().numpy()[...] *= 0.5


def through_copy(parameter):
    parameter.data.copy_(parameter.detach() * 0.5)


@pytest.mark.parametrize("write", [through_data, through_numpy, through_copy])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_write_to_any_parameter_after_an_evaluation_counts(encoder, write, mode):
    with mode():
        states(encoder)
    for _, parameter in encoder.named_parameters():
        write(parameter)
        with mode():
            assert largest_difference(states(encoder), states(same_weights_elsewhere(encoder))) == 0


def maps_and_convolutions(encoder):
    for name, module in parts(encoder):
        if isinstance(module, (nn.Linear, nn.Conv1d)) and module.weight.numel():
            yield name, module, "weight"
        elif isinstance(module, WeightNormConv):
            yield name, module, "weight_v"


def baked(encoder, config):
    fresh = Encoder(config).eval()
    fresh.load_state_dict(encoder.state_dict())
    return fresh


@torch.no_grad()
def counted_writes():
    def copied(parameter):
        parameter.copy_(parameter * 1.5)

    def moved(parameter):
        parameter.set_(parameter * 1.5)

    def replaced(parameter):
        parameter.data = parameter * 1.5

    return [copied, moved, replaced]


@pytest.mark.parametrize("write", counted_writes(), ids=lambda write: write.__name__)
@torch.no_grad()
def test_a_write_that_torch_counts_reaches_a_frozen_encoder(encoder, write):
    states(encoder.frozen())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    for parameter in encoder.parameters():
        write(parameter)
    assert largest_difference(states(encoder), states(same_weights_elsewhere(encoder))) < 1e-5
    weights = {name: value * 1.5 for name, value in encoder.state_dict().items()}
    for assign in (False, True):
        encoder.load_state_dict(weights, assign=assign)
        assert largest_difference(states(encoder), states(same_weights_elsewhere(encoder))) < 1e-5
        weights = {name: value / 1.5 for name, value in weights.items()}


@torch.no_grad()
def test_a_frozen_encoder_compares_no_values(monkeypatch):
    encoder = random_encoder(CONFIGS["wavlm"])
    expected = states(encoder)
    largest = states(encoder.frozen())
    monkeypatch.setattr(torch, "equal", None)
    assert largest_difference(states(encoder), expected) == largest_difference(largest, expected) == 0
    monkeypatch.undo()
    fresh = copy.deepcopy(encoder)  # makes no promise, so that every write is seen
    states(fresh)
    for parameter in fresh.parameters():
        parameter.data.mul_(1.5)
    assert largest_difference(states(fresh), states(same_weights_elsewhere(fresh))) < 1e-5


def test_pruning_masks_of_torch(encoder):
    states(encoder)
    for _, module, weight in maps_and_convolutions(encoder):
        prune.random_unstructured(module, weight, amount=0.5)
    masked = [states(encoder, gates) for gates in (None, gates_of(encoder))]
    for _, module, weight in maps_and_convolutions(encoder):
        prune.remove(module, weight)
    fresh = baked(encoder, encoder.config)
    for found, gates in zip(masked, (None, gates_of(encoder)), strict=True):
        assert largest_difference(found, states(fresh, gates)) < 1e-5


def test_pruning_masks_follow_training(tiny):
    """Masked weights learn through their mask: the next evaluation sees them, masked again."""
    for _, module, weight in maps_and_convolutions(tiny):
        prune.random_unstructured(module, weight, amount=0.5)
    with torch.no_grad():
        before = states(tiny)
    optimiser = torch.optim.SGD(tiny.parameters(), lr=0.01)
    states(tiny)[-1].square().mean().backward()
    optimiser.step()
    with torch.no_grad():
        after = states(tiny)
        for _, module, weight in maps_and_convolutions(tiny):
            prune.remove(module, weight)
        assert largest_difference(after, states(baked(tiny, tiny.config))) < 1e-5
    assert largest_difference(after, before) > 1e-4


class Halved(nn.Module):
    def forward(self, weight):
        return 0.5 * weight


@torch.no_grad()
def test_parametrizations(encoder):
    states(encoder)
    wanted = same_weights_elsewhere(encoder)
    for name, module, weight in maps_and_convolutions(encoder):
        parametrize.register_parametrization(module, weight, Halved())
        getattr(wanted.get_submodule(name), weight).mul_(0.5)
    for gates in (None, gates_of(encoder)):
        assert largest_difference(states(encoder, gates), states(wanted, gates)) < 1e-5


def test_averaged_weights(encoder):
    average = torch.optim.swa_utils.AveragedModel(encoder)
    other = random_encoder(encoder.config, seed=7)
    with torch.no_grad():
        for source in (encoder, other):
            average.update_parameters(source)
            states(average.module)
        mean = Encoder(encoder.config).eval()
        pairs = zip(encoder.state_dict().items(), other.state_dict().values(), strict=True)
        mean.load_state_dict({name: (a + b) / 2 for (name, a), b in pairs})
        assert largest_difference(states(average.module), states(mean)) < 1e-5


# what wraps the whole ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_dynamic_8_bit_weights(encoder):
    quantised = torch.ao.quantization.quantize_dynamic(encoder, {nn.Linear}, dtype=torch.qint8)
    assert isinstance(quantised.encoder.layers[0].self_attn.v_proj, torch.ao.nn.quantized.dynamic.Linear)
    difference = largest_difference(states(quantised), states(encoder))
    assert 0 < difference < 0.2


@contextmanager
def one_process(folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def gradients(model, encoder):
    model.zero_grad()
    states(model)[-1].square().mean().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        found_here = found[name].full_tensor() if hasattr(found[name], "full_tensor") else found[name]
        torch.testing.assert_close(found_here, gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", ["wavlm", "ragged"])
def test_data_parallel(name, tmp_path):
    encoder = random_encoder(CONFIGS[name])
    expected = gradients(encoder, encoder)
    with one_process(tmp_path):
        wrapped = nn.parallel.DistributedDataParallel(encoder, find_unused_parameters=True)
        assert_same_gradients(gradients(wrapped, encoder), expected)


@pytest.mark.parametrize("every_map", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_fully_sharded(every_map, tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    encoder = random_encoder(tiny_config())
    expected, wanted = gradients(encoder, encoder), states(encoder)
    with one_process(tmp_path):
        mesh = init_device_mesh("cpu", (1,))
        for module in [m for _, m in parts(encoder) if every_map and type(m) is nn.Linear]:
            fully_shard(module, mesh=mesh)
        for layer in encoder.encoder.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(encoder, mesh=mesh)
        assert largest_difference(states(encoder), wanted) < 1e-5
        assert_same_gradients(gradients(encoder, encoder), expected)
        with torch.no_grad():
            assert largest_difference(states(encoder), wanted) < 1e-5


def test_gradient_checkpointing(encoder):
    from torch.utils.checkpoint import checkpoint

    expected = gradients(encoder, encoder)
    for layer in encoder.encoder.layers:
        plain = layer.forward
        layer.forward = lambda *inputs, plain=plain: checkpoint(plain, *inputs, use_reentrant=False)
    assert_same_gradients(gradients(encoder, encoder), expected)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_switch_of_gradient_checkpointing(rate):
    """Each layer runs a second time, in training alone; copies and pickles keep the switch."""
    drop = Dropout(hidden=rate, attention=rate, activation=rate)
    encoder = Encoder(CONFIGS["ragged"], drop)
    encoder.load_state_dict(random_encoder(CONFIGS["ragged"]).state_dict())
    expected = seeded_gradients(encoder)
    encoder.gradient_checkpointing()
    for switched in (encoder, copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        runs = []
        for layer in switched.encoder.layers:
            layer.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        assert_same_gradients(seeded_gradients(switched), expected)
        assert len(runs) == 2 * len(switched.encoder.layers)
        gradients(switched.eval(), switched)
        assert len(runs) == 3 * len(switched.encoder.layers)
    encoder.gradient_checkpointing(False)
    assert_same_gradients(seeded_gradients(encoder), expected)


def seeded_gradients(encoder):
    torch.manual_seed(0)
    return gradients(encoder.train(), encoder)


class FlatOutput(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms):
        return tuple(self.encoder(waveforms).hidden_states)


@pytest.mark.parametrize("name", ["wavlm", "ragged"])
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_traced_and_exported(name):
    encoder = random_encoder(CONFIGS[name])
    flat = FlatOutput(encoder).eval()
    waveforms = torch.randn(2, 800, generator=torch.Generator().manual_seed(3))
    longer = torch.randn(1, 1300, generator=torch.Generator().manual_seed(5))
    traced = torch.jit.trace(flat, (waveforms,))
    dynamic = {"waveforms": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}}
    exported = torch.export.export(flat, (waveforms,), dynamic_shapes=dynamic).module()
    for captured in (traced, exported):
        assert largest_difference(list(captured(waveforms)), list(flat(waveforms))) < 1e-5
    assert largest_difference(list(exported(longer)), list(flat(longer))) < 1e-5


def test_other_parameters_for_one_call(encoder):
    """torch.func.functional_call, on which meta-learning and ensembles are built."""
    with torch.no_grad():
        states(encoder)
    other = random_encoder(encoder.config, seed=9)
    waveforms = torch.randn(2, 800, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found = torch.func.functional_call(encoder, other.state_dict(), (waveforms,)).hidden_states
        assert largest_difference(found, other(waveforms).hidden_states) < 1e-6


# adapters ------------------------------------------------------------------------------------------------------------


def adapted(model, targets):
    """`model` with adapters whose second matrices are not zero, as after some training."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=list(targets)))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def transformers_wavlm(encoder, folder):
    """transformers' WavLM of a tiny shape, and our encoder of its weights."""
    import transformers

    from pruned_upstream.model.convert import load_teacher

    options = fairseq_options(encoder.config)
    config = transformers.WavLMConfig(
        hidden_size=options["encoder_embed_dim"],
        num_hidden_layers=options["encoder_layers"],
        num_attention_heads=options["encoder_attention_heads"],
        intermediate_size=options["encoder_ffn_embed_dim"],
        conv_dim=tuple(layer.channels for layer in encoder.config.conv),
        conv_kernel=tuple(layer.kernel for layer in encoder.config.conv),
        conv_stride=tuple(layer.stride for layer in encoder.config.conv),
        num_conv_pos_embeddings=options["conv_pos"],
        num_conv_pos_embedding_groups=options["conv_pos_groups"],
        num_buckets=32,
        max_bucket_distance=40,
    )
    torch.manual_seed(0)
    theirs = transformers.WavLMModel(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.dim() > 1 and "original0" not in name:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    theirs.save_pretrained(folder)
    return theirs, load_teacher(folder).eval()


@pytest.mark.filterwarnings("ignore")
def test_adapters_on_all_six_maps_are_those_of_transformers(tiny, tmp_path):
    """transformers' own attention reads its maps' weights as well and passes over adapters: its are merged first."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    theirs, ours = transformers_wavlm(tiny, tmp_path)
    waveforms, _ = ours.prepare(unequal_waveforms((1600,)))
    with torch.no_grad():
        without = ours(waveforms).hidden_states
        assert largest_difference(without, list(theirs(waveforms, output_hidden_states=True).hidden_states)) < 1e-5
    translated = {"fc1": "intermediate_dense", "fc2": "output_dense"}
    ours = adapted(ours, MAPS)
    theirs = adapted(theirs, [translated.get(name, name) for name in MAPS])
    parameters = dict(theirs.named_parameters())
    copied = 0
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "lora" in name:
                name = name.replace("self_attn", "attention")
                for short, long in translated.items():
                    name = name.replace(f".{short}.", f".feed_forward.{long}.")
                parameters[name].copy_(parameter)
                copied += 1
        assert copied == 2 * len(MAPS) * tiny.config.num_layers
        merged = theirs.merge_and_unload().eval()
        expected = list(merged(waveforms, output_hidden_states=True).hidden_states)
        assert largest_difference(ours(waveforms).hidden_states, expected) < 1e-5
        assert largest_difference(without, expected) > 0.05
        assert largest_difference(ours.merge_and_unload()(waveforms).hidden_states, expected) < 1e-5


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ["wavlm", "ragged"])
def test_every_adapter_learns(name, gated):
    """A sublayer that is a bias alone has no map to adapt, so that the maps are listed by what they are."""
    pytest.importorskip("peft")
    encoder = random_encoder(CONFIGS[name])
    maps = [name for name, module in encoder.named_modules() if name.endswith(MAPS) and isinstance(module, nn.Linear)]
    model = adapted(encoder, maps)
    gates = gates_of(model.get_base_model()) if gated else None
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in learning.items()}
    optimiser = torch.optim.Adam(learning.values(), 1e-2)
    head = nn.Linear(24, 5)
    for _ in range(3):
        optimiser.zero_grad()
        loss = F.cross_entropy(head(states(model, gates)[-1].mean(1)), torch.tensor([3, 1]))
        loss.backward()
        optimiser.step()
    still = [name for name, p in learning.items() if p.numel() and torch.equal(p, before[name])]
    assert learning and not still


@pytest.mark.parametrize("groups", [1, 2, 3, 99])
def test_a_large_position_convolution_learns_the_same(groups, monkeypatch):
    """A few groups at a time (of four), spectra computed once more in the backward pass, and the gradients stay."""
    monkeypatch.setattr(frontend, "GROUPS_AT_ONCE", groups)
    gradients = []
    for limit in (frontend.LARGE_KERNEL, 0):
        monkeypatch.setattr(frontend, "LARGE_KERNEL", limit)
        encoder = random_encoder(tiny_config()).train()
        wavs = torch.randn(2, 1600, generator=torch.Generator().manual_seed(0))
        encoder(wavs).hidden_states[-1].square().sum().backward()
        block = encoder.encoder.pos_conv[0]
        gradients.append([block.weight_v.grad, block.weight_g.grad, encoder.post_extract_proj.weight.grad])
    for kept, recomputed in zip(*gradients, strict=True):
        assert kept.any()
        torch.testing.assert_close(recomputed, kept, rtol=1e-5, atol=1e-5 * kept.abs().max().item())


# torch's own classes, told to do something else ----------------------------------------------------------------------

LONG = 2 * frontend.TIME_MAJOR_SAMPLES  # of which a CPU would compute a plain front end channels last


def altered_blocks():
    """Of the tiny front end, what stands at a place of `conv_layers`: nothing but classes of torch."""
    return {
        "dilation": ("1.0", nn.Conv1d(16, 16, 3, 2, dilation=2, bias=False)),
        "groups": ("1.0", nn.Conv1d(16, 16, 3, 2, groups=16, bias=False)),
        "circular": ("1.0", nn.Conv1d(16, 16, 3, 2, padding=1, padding_mode="circular", bias=False)),
        "padding by a word": ("2.0", nn.Conv1d(16, 16, 3, padding="same", bias=False)),
        "another kernel": ("0.0", nn.Conv1d(1, 16, 7, 5, bias=True)),
        "norm of groups": ("0.2", nn.GroupNorm(4, 16)),
        "norm without weights": ("0.2", nn.GroupNorm(16, 16, affine=False)),
    }


@pytest.mark.parametrize("change", sorted(altered_blocks()))
@torch.no_grad()
def test_another_convolution_or_norm_of_torch_is_computed_as_it_is(change):
    torch.manual_seed(0)
    encoder, waveforms = random_encoder(tiny_config()), torch.randn(1, LONG)
    name, module = altered_blocks()[change]
    encoder.feature_extractor.conv_layers.set_submodule(name, module)
    found = encoder(waveforms).hidden_states
    for block in encoder.feature_extractor.conv_layers:  # so all of them are called
        block.register_forward_hook(lambda *_: None)
    assert largest_difference(found, encoder(waveforms).hidden_states) < 1e-5


@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_maps_without_a_bias_in_place_of_those_with_one(gated):
    encoder, waveforms = random_encoder(tiny_config()), torch.randn(2, 800)
    gates = gates_of(encoder) if gated else None
    maps = [module for module in encoder.modules() if type(module) is nn.Linear]
    for module in maps:
        module.bias.zero_()
    wanted = encoder(waveforms, gates=gates).hidden_states
    for module in maps:
        module.bias = None
    assert largest_difference(encoder(waveforms, gates=gates).hidden_states, wanted) < 1e-6


@torch.no_grad()
def test_a_class_of_torch_with_another_forward(monkeypatch):
    """As profilers and tracers put one."""
    encoder, waveforms, plain, heard = random_encoder(tiny_config()), torch.randn(1, LONG), nn.Conv1d.forward, []
    monkeypatch.setattr(nn.Conv1d, "forward", lambda self, x: heard.append(self) or plain(self, x))
    encoder(waveforms)
    assert heard == [block.convolution for block in encoder.feature_extractor.conv_layers]


# torch.func, forward mode, threads -----------------------------------------------------------------------------------


def test_tangents_of_every_parameter(encoder):
    """Forward mode against differences; what is kept between calls knows values alone."""
    encoder = encoder.double()
    generator = torch.Generator().manual_seed(5)
    here = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
    along = {name: 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in here.items()}
    waveforms = torch.randn(1, 400, generator=generator, dtype=torch.double)

    def last(parameters):
        return torch.func.functional_call(encoder, parameters, (waveforms,)).hidden_states[-1]

    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        last(here)
        _, found = torch.func.jvp(last, (here,), (along,))
        step = 1e-6
        ahead, behind = (last({name: here[name] + s * along[name] for name in here}) for s in (step, -step))
    assert largest_difference([found], [(ahead - behind) / (2 * step)]) < 1e-6


@torch.no_grad()
def test_an_ensemble_under_vmap(encoder):
    members = [encoder, copy.deepcopy(encoder)]
    for parameter in members[1].parameters():
        parameter.mul_(1.1)
    stacked, _ = torch.func.stack_module_state(members)
    waveforms = torch.randn(1, LONG)

    def last(parameters):
        return torch.func.functional_call(encoder, parameters, (waveforms,)).hidden_states[-1]

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # others warn that they are slow under it
        found_of_members = torch.vmap(last)(stacked)
    for found, member in zip(found_of_members, members, strict=True):
        assert largest_difference([found], [member(waveforms).hidden_states[-1]]) < 1e-5


def test_threads_that_ask_at_once_after_a_write(monkeypatch):
    """Whoever asks while another computes anew must not be given what was kept before."""
    encoder, waveforms = random_encoder(tiny_config()), torch.randn(1, 800)
    block = encoder.encoder.pos_conv[0]
    plain, begun, go_on = block._spectrum, threading.Event(), threading.Event()

    def waits(*parameters):
        if not begun.is_set():
            begun.set()
            go_on.wait(10)
        return plain(*parameters)

    with torch.no_grad():
        encoder(waveforms)
        block.weight_v.mul_(torch.rand_like(block.weight_v))
        monkeypatch.setattr(block, "_spectrum", waits)
        other = threading.Thread(target=torch.no_grad()(encoder), args=(waveforms,))
        other.start()
        begun.wait(10)
        found = encoder(waveforms).hidden_states
        go_on.set()
        other.join()
        assert largest_difference(found, same_weights_elsewhere(encoder)(waveforms).hidden_states) < 1e-6
