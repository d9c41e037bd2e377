"""What a recipe may say, and the sentence for everything it may not."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pruned_upstream.errors import ConfigError
from pruned_upstream.training.distill import DistillRecipe
from pruned_upstream.training.methods import METHODS, method_named
from pruned_upstream.training.prune import PruneRecipe
from pruned_upstream.training.recipe import flat_keys, load_recipe, resolve_recipe, save_recipe

GIVEN = ["teacher=t.pt", "data.train=speech"]
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_the_papers_run() -> None:
    recipe = load_recipe("wavlm_base", PruneRecipe, GIVEN)
    assert recipe.optimisation.steps == 200_000
    assert recipe.optimisation.learning_rate == 2e-4
    assert (recipe.optimisation.warmup, recipe.sparsity.warmup) == (0.07, 0.07)
    assert recipe.sparsity.target == 0.8
    assert (recipe.data.batch_utterances, recipe.data.max_seconds) == (24, 15.6)
    assert recipe.distillation.teacher_layers == [3, 6, 9, 12]
    assert recipe.gates.fine_grained
    assert recipe.gates.multi_scale
    assert recipe.gates.straight_through
    assert not recipe.gates.conv


def test_the_papers_recipe_spells_out_every_key_with_a_reason() -> None:
    text = (Path(__file__).parents[2] / "recipes" / "wavlm_base.yaml").read_text()
    given = {key for key, _ in _flat(OmegaConf.to_container(OmegaConf.create(text)))}
    assert given == set(flat_keys(PruneRecipe))
    keys = [line for line in text.splitlines() if re.match(r"\s*\w+:\s*\S", line) and not line.startswith("#")]
    plain = {"seed", "log_every", "checkpoint_every", "hidden", "attention", "activation", "features"}
    assert {line.split(":")[0].strip() for line in keys if "#" not in line} <= plain


def test_defaults_in_code_are_those_of_the_papers_recipe() -> None:
    recipe = flat_keys(load_recipe("wavlm_base", PruneRecipe, GIVEN))
    required = {
        "teacher": "t.pt",
        "data": {"train": "speech"},
        "sparsity": {"target": 0.8},
        "optimisation": {"steps": 200_000},
        "run": {"folder": "runs/wavlm_base"},
    }
    defaults = flat_keys(resolve_recipe(required, PruneRecipe))
    meant_to_differ = {"distillation.teacher_layers", "optimisation.precision", "run.log_every"}
    assert {key for key in recipe if recipe[key] != defaults[key]} == meant_to_differ


def _flat(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_overrides_and_one_folder_without_brackets() -> None:
    changes = ["sparsity.target=0.67", "distillation.teacher_layers=[1,2]"]
    recipe = load_recipe("wavlm_base", PruneRecipe, [*GIVEN, *changes])
    assert recipe.data.train == ["speech"]
    assert recipe.sparsity.target == 0.67
    assert recipe.distillation.teacher_layers == [1, 2]
    assert load_recipe("wavlm_base", PruneRecipe, ["teacher=t", "data.train=[a,b]"]).data.train == ["a", "b"]


def test_the_resolved_form_reads_back_equal(tmp_path: Path) -> None:
    recipe = load_recipe("wavlm_base", PruneRecipe, [*GIVEN, "gates.clamp=null", "data.batch_seconds=120"])
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml", PruneRecipe) == recipe


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("data.trian=x", r"no recipe key 'data\.trian'; did you mean 'data\.train'\?"),
        ("sparsty.target=0.5", r"no recipe key 'sparsty'; did you mean 'sparsity'\?"),
        ("speed=0.5", r"no recipe key 'speed'; a recipe has teacher, start, data, gates"),
        ("sparsity.amount=0.5", r"no recipe key 'sparsity\.amount'; sparsity has target, targets, scope, warmup"),
        ("optimisation.steps=many", r"recipe key 'optimisation\.steps': Value 'many'"),
        ("optimisation.steps=-1", r"optimisation\.steps is -1; it must be at least 0"),
        ("optimisation.learning_rate=-1", r"optimisation\.learning_rate is -1\.0; it must be above 0"),
        ("optimisation.gate_learning_rate=0", r"optimisation\.gate_learning_rate is 0\.0"),
        ("optimisation.betas=[0.9]", r"optimisation\.betas is \[0\.9\]; it must be two numbers"),
        ("optimisation.precision=fp16", r"optimisation\.precision is 'fp16'; it must be one of fp32, bf16"),
        ("optimisation.warmup=1", r"optimisation\.warmup is 1\.0"),
        ("sparsity.target=1.0", r"sparsity\.target is 1\.0; it must lie between 0 and 1"),
        ("sparsity.target=80", r"sparsity\.target is 80\.0"),
        ("sparsity.scope=attention", r"sparsity\.scope is 'attention'; it must be one of"),
        ("gates.drop_ffn=1", r"gates\.drop_ffn is 1\.0"),
        ("gates.beta=hot", r"recipe key 'gates\.beta'"),
        ("data.train=[]", r"data\.train is \[\]; it must name at least one"),
        ("data.batch_seconds=0", r"data\.batch_seconds is 0\.0"),
        ("dropout.hidden=1", r"dropout\.hidden is 1\.0"),
        ("run.seed=-1", r"run\.seed is -1"),
        ("run.folder=''", r"run\.folder is ''"),
        ("data=3", r"recipe section 'data' is 3; it must hold keys, such as data\.train"),
        ("sparsity=null", r"recipe section 'sparsity' is None"),
        ("run.folder=pyproject.toml", r"run\.folder is 'pyproject\.toml'; it must name a folder, not a file"),
        ("steps", r"'steps' does not override anything; write section\.key=value"),
        ("=3", r"does not override anything"),
        ("data.train=[a", r"is not YAML"),
        ("run.seed=!!int ''", r"the value of run\.seed is not YAML: line 1, column 1: this is no int"),
        ("sparsity.target=!!float x", r"the value of sparsity\.target is not YAML: .* this is no float"),
    ],
)
def test_mistakes_are_named(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_recipe("wavlm_base", PruneRecipe, [*GIVEN, override])


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"does not say data\.train; add data\.train=<value>"):
        load_recipe("wavlm_base", PruneRecipe, ["teacher=t.pt"])


@pytest.mark.parametrize("text", ["a: [1", "- a\n- b\n", "just words", "\x00"])
def test_files_that_are_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml|the recipe key 'just words'"):
        load_recipe(path, PruneRecipe)


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="no recipe wavlm_bsae.*did you mean wavlm_base"):
        load_recipe("wavlm_bsae", PruneRecipe)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_command_in_a_recipes_comment_completes_it(path: Path) -> None:
    text = re.sub(r"\\\n#", " ", path.read_text())
    commands = re.findall(r"^#   pruned-upstream (\w+) (\w+) (.*)$", text, re.MULTILINE)
    assert commands
    for method, name, overrides in commands:
        assert name == path.stem
        load_recipe(path, method_named(method).recipe_class, shlex.split(overrides))


@pytest.mark.parametrize(
    ("name", "ablated"),
    [
        ("no_fahp", "gates.fine_grained"),
        ("no_ste", "gates.straight_through"),
        ("no_pairing", "distillation.pairing"),
        ("no_multi_scale", "gates.multi_scale"),
        ("wavlm_base_100h", "optimisation.steps"),
    ],
)
def test_an_ablation_differs_in_the_one_thing_it_ablates(name: str, ablated: str) -> None:
    papers, ours = (flat_keys(load_recipe(recipe, PruneRecipe, GIVEN)) for recipe in ("wavlm_base", name))
    assert {key for key in papers if papers[key] != ours[key]} == {ablated, "run.folder"}
    assert ours["run.folder"] == f"runs/{name}"


def test_the_demo_at_80_percent_is_the_demo() -> None:
    demo, ours = (flat_keys(load_recipe(recipe, PruneRecipe, GIVEN)) for recipe in ("demo", "demo_80"))
    different = {"sparsity.target", "optimisation.steps", "run.folder"}
    assert {key for key in demo if demo[key] != ours[key]} == different


def test_the_shallow_students_recipe() -> None:
    recipe = load_recipe("distil_wavlm", DistillRecipe, GIVEN)
    assert (recipe.student.layers, recipe.student.feature_grad_mult) == (2, 0.1)
    assert recipe.distillation.teacher_layers == [4, 8, 12]
    assert recipe.data.max_seconds * 16000 == 250_000
    assert recipe.optimisation.betas == [0.9, 0.98]
    demo = load_recipe("demo_distil", DistillRecipe, GIVEN)
    assert (demo.optimisation.steps, demo.optimisation.weight_decay) == (600, 1e-6)


def test_bases_chain_and_the_resolved_form_needs_none(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("base: wavlm_base\nsparsity:\n  target: 0.5\n  warmup: 0.2\n")
    (tmp_path / "second.yaml").write_text("base: first\nsparsity:\n  target: 0.6\ndata:\n  train: [a]\n")
    recipe = load_recipe(tmp_path / "second.yaml", PruneRecipe, ["teacher=t", "sparsity.scope=everything"])
    assert (recipe.sparsity.target, recipe.sparsity.warmup, recipe.sparsity.scope) == (0.6, 0.2, "everything")
    assert recipe.gates == load_recipe("wavlm_base", PruneRecipe, GIVEN).gates
    save_recipe(recipe, tmp_path / "elsewhere" / "recipe.yaml")
    assert "base" not in OmegaConf.load(tmp_path / "elsewhere" / "recipe.yaml")
    assert load_recipe(tmp_path / "elsewhere" / "recipe.yaml", PruneRecipe) == recipe


def test_a_base_may_be_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: demo\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.yaml").write_text(f"base: {tmp_path / 'mine.yaml'}\n")
    theirs = load_recipe(tmp_path / "other" / "recipe.yaml", PruneRecipe, GIVEN)
    assert theirs == load_recipe("demo", PruneRecipe, GIVEN)


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        ("recipe", r"a recipe cannot be its own base: recipe\.yaml -> recipe\.yaml"),
        ("other", r"a recipe cannot be its own base: recipe\.yaml -> other\.yaml -> recipe\.yaml"),
        ("wavlm_bsae", r"recipe\.yaml is based on a recipe that is not there: .*did you mean wavlm_base"),
        ("[a, b]", r"recipe\.yaml: base must be the name or path of one recipe"),
    ],
)
def test_bases_that_cannot_be(tmp_path: Path, base: str, complaint: str) -> None:
    (tmp_path / "recipe.yaml").write_text(f"base: {base}\n")
    (tmp_path / "other.yaml").write_text("base: recipe\n")
    with pytest.raises(ConfigError, match=complaint):
        load_recipe(tmp_path / "recipe.yaml", PruneRecipe, GIVEN)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("second_stage.steps=-1", r"second_stage\.steps is -1; it must be at least 0"),
        ("second_stage.learning_rate=0", r"second_stage\.learning_rate is 0\.0"),
        ("second_stage.warmup=1", r"second_stage\.warmup is 1\.0"),
        ("distillation.groups=[1]", r"distillation\.groups is \[1\]; it must be null, or lists of layers"),
        ("distillation.groups=[[a]]", r"distillation\.groups is \[\['a'\]\]"),
        ("base=demo", r"no recipe key 'base'"),
    ],
)
def test_mistakes_in_the_newer_keys_are_named(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_recipe("wavlm_base", PruneRecipe, [*GIVEN, override])


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.train[0]=x", "is no recipe key"),
        ("teacher=${", "teacher"),
        ("teacher=${nope}", "nope"),
        ("data.max_seconds=.inf", "finite"),
        ("optimisation.betas=[.nan,0.9]", "finite"),
        ("data=[1]", "must hold keys"),
        ("data.train={a: 1}", "data"),
        ("run.seed=1e400", "run.seed"),
    ],
)
def test_overrides_of_any_shape_are_answered(override, reason):
    given = ["teacher=a", "data.train=b", "run.folder=c"]
    with pytest.raises(ConfigError, match=reason):
        load_recipe("demo", PruneRecipe, [*given, override])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("base: demo\ndata.train: x\n", r"in a file it is a section: write 'data:', and 'train:'"),
        ("base: demo\ndata: [1, 2]\n", r"'data' is \[1, 2\]"),
        ("base: [a]\n", "one recipe"),
        ("base: demo\n3: x\n", "is no word"),
        ("a: &a [*a]\n", "contains itself"),
        ('teacher: "\\ud800"\n', "line 1"),
        ("base: demo\nrun: {}\nrun: {}\n", "line 3 gives a key a second time"),
        ("base: demo\ndata:\n  train: a\noptimisation:\n  betas: [{a: 1}, 0.9]\n", "betas|kind"),
    ],
)
def test_files_of_any_shape_are_answered(text, reason, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        load_recipe(tmp_path / "r.yaml", PruneRecipe, ["teacher=a", "run.folder=c"])


def test_a_base_is_a_recipe_and_its_text_stays_where_it_is(tmp_path):
    (tmp_path / "secret").write_text("password hunter2")
    (tmp_path / "secret.yaml").write_text("password: hunter2: x")
    for base in (tmp_path / "secret", tmp_path / "secret.yaml"):
        (tmp_path / "r.yaml").write_text(f"base: {base}\n")
        with pytest.raises(ConfigError) as refused:
            load_recipe(tmp_path / "r.yaml", PruneRecipe)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("text", ["a\0b", "a\udcffb"])
def test_what_no_file_can_be_named_is_refused(text: str) -> None:
    named = {"teacher": "t.pt", "data": {"train": ["speech"]}, "run": {"folder": "run"}}
    rest = {"optimisation": {"steps": 3}, "sparsity": {"target": 0.5}}
    for key, change in [
        ("teacher", {"teacher": text}),
        ("data.train", {"data": {"train": ["speech", text]}}),
        ("run.folder", {"run": {"folder": text}}),
    ]:
        with pytest.raises(ConfigError, match=f"{key} is .*; it must be text in UTF-8 without zero bytes"):
            resolve_recipe(named | rest | change, PruneRecipe)


def test_a_zero_byte_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match="data.train is .*; it must be text in UTF-8 without zero bytes"):
        load_recipe("wavlm_base", PruneRecipe, [*GIVEN, r'data.train="a\0b"'])


@pytest.mark.parametrize("text", ["[[speech]]", "[speech, {a: b}]"])
def test_a_list_within_a_list_of_sources(text: str) -> None:
    with pytest.raises(ConfigError, match="data.train is .*; it must hold names of folders"):
        load_recipe("wavlm_base", PruneRecipe, [*GIVEN, f"data.train={text}"])


@pytest.mark.parametrize("text", ["''", "['']", "[speech, '']"])
def test_no_name_is_not_the_folder_one_is_in(text: str) -> None:
    with pytest.raises(ConfigError, match="data.train is .*; it must name at least one folder"):
        load_recipe("wavlm_base", PruneRecipe, [*GIVEN, f"data.train={text}"])


def test_a_seed_that_no_generator_takes() -> None:
    with pytest.raises(ConfigError, match="run.seed is .*; it must be at least 0 and below 2"):
        load_recipe("wavlm_base", PruneRecipe, [*GIVEN, "run.seed=99999999999999999999999"])


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_key_takes_or_refuses_any_number_in_a_sentence(method) -> None:
    """Those that are taken can be written down, and are of a size that single precision holds."""
    given = ["teacher=a", "data.train=b", "run.folder=c"][method.name == "pretrain" :]
    whole = dataclasses.asdict(load_recipe(method.base, method.recipe_class, given))
    numbers = (0, -1, 1e-9, 1e-320, -1e300, 10**23, float("nan"))
    for key, default in flat_keys(method.recipe_class).items():
        section, _, name = key.rpartition(".")
        for number in numbers if isinstance(default, int | float | None) else numbers[-2:]:
            value = [number, number] if name == "betas" else number
            change = {section: whole[section] | {name: value}} if section else {name: value}
            try:
                recipe = resolve_recipe(whole | change, method.recipe_class)
            except ConfigError as refused:
                assert len(str(refused)) < 1000
                continue
            taken = flat_keys(recipe)[key]
            for single in taken if isinstance(taken, list) else [taken]:
                assert isinstance(single, str | bool) or single == 0 or 1e-30 <= abs(single) <= 1e9, (key, value)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.max_seconds=1e-9", "at least 0.025, a frame"),
        ("optimisation.steps=99999999999999999999999", "be 0 or between 1e-30 and 1e"),
        ("optimisation.accumulation=100000", "be between 1 and 1000"),
    ],
)
def test_sizes_that_no_run_has(override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_recipe("wavlm_base", PruneRecipe, [*GIVEN, override])


def test_a_file_that_is_no_recipe_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "secrets.yaml").write_text("hunter2: x\ntoken: 1234\n")
    with pytest.raises(ConfigError, match="is no such recipe: it has none of the sections teacher, ") as refused:
        load_recipe(tmp_path / "secrets.yaml", PruneRecipe)
    assert "hunter2" not in str(refused.value) and "1234" not in str(refused.value)
