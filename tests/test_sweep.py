"""Sweeps: the grid, its folders, resume, failures, what is collected. Points are tiny prunings."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from tiny import random_encoder, tiny_config
from training.conftest import recipe, recordings, teacher_file  # noqa: F401 (fixtures)

from pruned_upstream import cli
from pruned_upstream.errors import ConfigError, DataError
from pruned_upstream.files import locked
from pruned_upstream.jobs import Failure
from pruned_upstream.model.checkpoint import save
from pruned_upstream.readme import PAGE, README
from pruned_upstream.superb.layout import Data
from pruned_upstream.superb.results import RunResults, TaskResult, sha256, write_results
from pruned_upstream.superb.running import Report
from pruned_upstream.sweep import Axis, Scoring, plan, run_sweep, running
from pruned_upstream.sweep.results import finished_rows, over_seeds
from pruned_upstream.training.loop import Trainer
from pruned_upstream.training.recipe import save_recipe

lxml_html = pytest.importorskip("lxml.html")

GRID = [Axis("sparsity.target", (0.3, 0.5)), Axis("run.seed", (0, 1))]
NAMES = [f"target-{target}_seed-{seed}" for target in (0.3, 0.5) for seed in (0, 1)]


@pytest.fixture
def source(recipe, tmp_path: Path) -> Path:  # noqa: F811
    """A recipe of four steps."""
    path = tmp_path / "tiny.yaml"
    save_recipe(recipe(**{"optimisation.steps": 4, "run.folder": str(tmp_path / "sweep")}), path)
    return path


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("sparsity.target=0.5,0.67", Axis("sparsity.target", (0.5, 0.67))),
        ("optimisation.learning_rate=1e-3, 1e-4", Axis("optimisation.learning_rate", (1e-3, 1e-4))),
        ("distillation.teacher_layers=[1,3],[2,3]", Axis("distillation.teacher_layers", ([1, 3], [2, 3]))),
        ("gates.straight_through=true,false", Axis("gates.straight_through", (True, False))),
        ("optimisation.clip_norm=null,5.0", Axis("optimisation.clip_norm", (None, 5.0))),
        ("run.seed=3", Axis("run.seed", (3,))),
    ],
)
def test_values_are_yaml(text, axis):
    assert Axis.parse(text) == axis


@pytest.mark.parametrize("text", ["run.seed", "run.seed=", "=1,2", "run.seed=1,1", "run.seed=[1", "run.seed=1]"])
def test_what_varies_nothing_is_refused(text):
    with pytest.raises(ConfigError):
        Axis.parse(text)


def test_points_of_another_teacher_are_not_mixed_in(source, teacher_file, tmp_path):  # noqa: F811
    """What is finished is not trained again, so that only this tells that its teacher was another one."""
    first, both = ([Axis("sparsity.target", targets)] for targets in ((0.3,), (0.3, 0.5)))
    run_sweep(plan(source, ["sparsity.may_miss=true"], first), "debug")
    save(teacher_file, random_encoder(tiny_config(), seed=5))
    with pytest.raises(DataError, match=r"target-0\.3 holds a run on other teacher weights"):
        run_sweep(plan(source, ["sparsity.may_miss=true"], both), "debug")
    assert not (tmp_path / "sweep" / "target-0.5").exists()
    teacher_file.unlink()
    assert len(run_sweep(plan(source, ["sparsity.may_miss=true"], first), "debug").rows) == 1


def test_every_combination_is_a_point(source, tmp_path):
    planned = plan(source, ["optimisation.steps=7"], GRID)
    assert planned.folder == tmp_path / "sweep"
    assert [point.name for point in planned.points] == NAMES
    for point in planned.points:
        assert point.folder == planned.folder / point.name
        assert point.recipe.sparsity.target == point.values["sparsity.target"]
        assert point.recipe.run.seed == point.values["run.seed"]
        assert point.recipe.optimisation.steps == 7


def test_names_of_folders_need_no_quoting_and_tell_keys_apart(source):
    axes = [
        Axis("optimisation.warmup", (0.1,)),
        Axis("sparsity.warmup", (0.2,)),
        Axis("distillation.teacher_layers", ([1, 3],)),
    ]
    (point,) = plan(source, [], axes).points
    assert point.name == "optimisation.warmup-0.1_sparsity.warmup-0.2_teacher_layers-1-3"


@pytest.mark.parametrize(
    ("axes", "complaint"),
    [
        ([], "nothing is varied"),
        ([Axis("run.seed", (0,)), Axis("run.seed", (1,))], "run.seed is varied twice"),
        ([Axis("run.folder", ("a", "b"))], "run.folder cannot be varied"),
        ([Axis("sparsity.traget", (0.5,))], "did you mean 'sparsity.target'"),
        ([Axis("sparsity.target", (0.5, 1.5))], "sparsity.target is 1.5"),
        ([Axis("teacher", ("a/b", "a-b"))], "would share the folder teacher-a-b"),
    ],
)
def test_impossible_sweeps_are_refused_before_anything_is_run(source, tmp_path, axes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        plan(source, [], axes)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_is_interrupted_and_goes_on(source, tmp_path, monkeypatch):
    """The second of four points is stopped in its third step."""
    planned = plan(source, [], GRID)
    step = Trainer.step

    def interrupted(trainer: Trainer, number: int, parts) -> None:
        if trainer.folder.name == NAMES[1] and number == 3:
            raise KeyboardInterrupt
        step(trainer, number, parts)

    monkeypatch.setattr(Trainer, "step", interrupted)
    ended: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_sweep(planned, "debug", ended=lambda name, failure: ended.append(name))
    assert ended == NAMES[:1]
    first = (planned.points[0].folder / "compact.safetensors").stat().st_mtime_ns
    assert not (planned.points[1].folder / "compact.safetensors").exists()

    monkeypatch.setattr(Trainer, "step", step)
    ended.clear()
    outcome = run_sweep(planned, "debug", ended=lambda name, failure: ended.append(name))
    assert ended == NAMES and outcome.failures == {}
    assert (planned.points[0].folder / "compact.safetensors").stat().st_mtime_ns == first
    launches = json.loads((planned.points[1].folder / "launches.json").read_text())
    assert [launch["from_step"] for launch in launches] == [0, 2]  # the state is saved every second step

    rows = list(csv.DictReader((planned.folder / "results.csv").open()))
    assert [row["point"] for row in rows] == NAMES
    assert [(float(row["sparsity.target"]), int(row["run.seed"])) for row in rows] == [
        (0.3, 0), (0.3, 1), (0.5, 0), (0.5, 1)
    ]  # fmt: skip
    for point, row in zip(planned.points, rows, strict=True):
        report = json.loads((point.folder / "report.json").read_text())
        last = json.loads((point.folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert int(row["parameters"]) == report["parameters"]
        assert float(row["loss"]) == last["distillation"]
        assert float(row["counted_sparsity"]) == report["counted_sparsity"]
        assert float(row["milliseconds"]) > 0
    times = (planned.folder / "times.json").read_text()
    assert outcome.rows == finished_rows(planned)
    assert (planned.folder / "times.json").read_text() == times  # known shapes are not measured again
    tree = yaml.safe_load((planned.folder / "results.yaml").read_text())
    assert [group["seeds"] for group in tree["over_seeds"]] == [2, 2]
    assert outcome.pictures == [planned.folder / "trade_off.png"]


def test_a_point_that_was_killed_ahead_of_its_page_gets_it_and_is_not_trained_again(source):
    planned = plan(source, ["optimisation.steps=1"], [Axis("run.seed", (0,))])
    run_sweep(planned, "debug")
    (point,) = planned.points
    trained = (point.folder / "compact.safetensors").stat().st_mtime_ns
    explained = {name: (point.folder / name).read_text() for name in (PAGE, README)}
    for name in explained:
        (point.folder / name).unlink()
    run_sweep(planned, "debug")
    assert (point.folder / README).read_text() == explained[README] and (point.folder / PAGE).is_file()
    assert (point.folder / "compact.safetensors").stat().st_mtime_ns == trained


def test_finished_points_are_told_in_the_order_of_the_grid(source):
    axes = [Axis("run.seed", (2, 0, 1))]
    planned = plan(source, ["optimisation.steps=1"], axes)
    run_sweep(planned, "debug")
    told = []
    run_sweep(planned, "debug", ended=lambda name, failure: told.append(name))
    assert told == ["seed-2", "seed-0", "seed-1"]


def test_a_point_that_fails_is_named_and_the_others_go_on(source):
    planned = plan(source, [], [Axis("optimisation.learning_rate", (1e9, 1e-3))])
    told: dict[str, Failure | None] = {}
    outcome = run_sweep(planned, "debug", ended=lambda name, failure: told.update({name: failure}))
    bad, good = (point.name for point in planned.points)
    assert set(outcome.failures) == {bad} and "training diverged" in outcome.failures[bad].reason
    assert told == {bad: outcome.failures[bad], good: None}
    assert [row["point"] for row in outcome.rows] == [good]


def test_a_folder_of_another_recipe_is_refused(source):
    axes = [Axis("run.seed", (0,))]
    run_sweep(plan(source, [], axes), "debug")
    with pytest.raises(ConfigError, match=r"holds a run of another recipe: optimisation.steps \(4 there, 5 here\)"):
        run_sweep(plan(source, ["optimisation.steps=5"], axes), "debug")


def test_a_point_that_another_process_trains_is_left_alone(source, monkeypatch):
    monkeypatch.setattr("pruned_upstream.files.LOCK_PATIENCE_SECONDS", 0.1)
    planned = plan(source, [], [Axis("run.seed", (0,))])
    with locked(planned.points[0].folder):
        outcome = run_sweep(planned, "debug")
    assert "in use by another run" in outcome.failures["seed-0"].reason


def test_points_are_scored(source, monkeypatch, tmp_path):
    scored = []

    def score(settings) -> Report:
        scored.append((settings.folder.parent.name, settings.checkpoint.is_file(), settings.tasks, settings.short))
        task = TaskResult({"acc": 90.0 + len(scored)}, official=False, notes=("imitated",))
        results = RunResults(settings.model, settings.upstream, tasks={"ks": task} if len(scored) != 2 else {})
        write_results(settings.folder, results)
        return Report(results, {} if len(scored) != 2 else {"ks": Failure("was killed", ("last words",))})

    monkeypatch.setattr(running, "run_superb", score)
    axes = [Axis("run.seed", (0, 1))]
    planned = plan(source, [], axes, scoring=Scoring(("ks",), Data(tmp_path), short=True))
    outcome = run_sweep(planned, "debug")
    assert scored == [(f"seed-{seed}", True, ("ks",), True) for seed in (0, 1)]
    assert outcome.failures == {"seed-1": Failure("ks: was killed", ("last words",))}
    assert [row.get("ks.acc") for row in outcome.rows] == [91.0, None]
    outcome = run_sweep(planned, "debug")  # the first is not scored again
    assert [name for name, *_ in scored] == ["seed-0", "seed-1", "seed-1"]
    assert [row["ks.acc"] for row in outcome.rows] == [91.0, 93.0]
    assert [path.name for path in outcome.pictures] == ["trade_off.png", "trade_off_ks_acc.png"]


def test_scores_of_a_model_that_was_trained_on_are_not_its_own(source, monkeypatch, tmp_path, caplog):
    def score(settings) -> Report:
        sha = sha256(settings.checkpoint)
        tasks = {"ks": TaskResult({"acc": 90.0}, official=False, notes=("imitated",))}
        results = RunResults(settings.model, settings.upstream, tasks=tasks, provenance={"checkpoint_sha256": sha})
        write_results(settings.folder, results)
        return Report(results, {})

    monkeypatch.setattr(running, "run_superb", score)
    axes, scoring = [Axis("run.seed", (0,))], Scoring(("ks",), Data(tmp_path), short=True)
    settings = ["sparsity.may_miss=true"]
    assert [row["ks.acc"] for row in run_sweep(plan(source, settings, axes, scoring=scoring), "debug").rows] == [90.0]
    longer = plan(source, [*settings, "optimisation.steps=6"], axes, amend=True)
    (row,) = run_sweep(longer, "debug").rows
    assert "ks.acc" not in row and "scores of the model as it was before" in caplog.text
    scored = plan(source, [*settings, "optimisation.steps=6"], axes, scoring=scoring)
    assert not scored.is_finished(scored.points[0])


def test_the_folder_explains_itself_while_it_runs_and_afterwards(source, monkeypatch):
    planned = plan(source, [], [Axis("run.seed", (0, 1))])
    step = Trainer.step

    def interrupted(trainer: Trainer, number: int, parts) -> None:
        if trainer.folder.name == "seed-1":
            raise KeyboardInterrupt
        step(trainer, number, parts)

    def readme() -> str:
        return (planned.folder / README).read_text(encoding="utf-8")

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(planned, "debug")
    assert "0 of 2 runs finished" in readme() and "The same command" in readme()
    monkeypatch.setattr(Trainer, "step", step)
    run_sweep(planned, "debug")
    assert "2 of 2 runs finished" in readme()
    told = re.findall(r"^\| `([^`]+)`", readme(), flags=re.M)
    explained = {path.name for pattern in told for path in planned.folder.glob(pattern)}
    assert {path.name for path in planned.folder.iterdir() if path.name[0] != "."} - {README} == explained
    page = lxml_html.document_fromstring((planned.folder / PAGE).read_text(encoding="utf-8"))
    links = [link.get("href") for link in page.iter("a")]
    assert links == [f"seed-{seed}/{PAGE}" for seed in (0, 1)]
    assert all((planned.folder / link).is_file() for link in links)
    assert len(page.findall(".//svg")) == 1


def test_seeds_are_merged_into_mean_and_spread():
    rows = [
        {"point": "a", "sparsity.target": 0.5, "run.seed": 0, "loss": 1.0, "ks.acc": 90.0},
        {"point": "b", "sparsity.target": 0.5, "run.seed": 1, "loss": 3.0},
        {"point": "c", "sparsity.target": 0.8, "run.seed": 0, "loss": 5.0, "ks.acc": 80.0},
    ]
    assert over_seeds(rows, ["sparsity.target", "run.seed"]) == [
        {"sparsity.target": 0.5, "seeds": 2, "loss": 2.0, "loss_spread": pytest.approx(2**0.5)},
        {"sparsity.target": 0.8, "seeds": 1, "loss": 5.0, "loss_spread": 0.0, "ks.acc": 80.0, "ks.acc_spread": 0.0},
    ]


def test_the_command_in_processes_of_its_own(source, tmp_path, monkeypatch, exit_code, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    folder = f"run.folder={tmp_path / 'here'}"
    assert exit_code("sweep", source, folder, "--sparsity", "0.4", "--vary", "optimisation.learning_rate=1e9") == 1
    said = capsys.readouterr().out.replace("\n", "")
    assert "learning_rate-1000000000.0_target-0.4 failed: training diverged" in said
    assert list((tmp_path / "here" / "jobs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing is varied"),
        (["--seeds", "0", "--method", "parch"], "there is no method 'parch'; known are prune, distill"),
        (["--sparsity", "0.5", "--method", "distill"], "the method distill has no sparsity"),
        (["--seeds", "0", "--launcher", "pbs"], "unknown launcher 'pbs'"),
        (["--seeds", "0", "--superb", "kws"], "unknown task 'kws'"),
        (["--seeds", "0", "--short"], "--short is about the tasks of --superb"),
        (["--vary", "run.seed"], "varies nothing"),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(source, exit_code, capsys, arguments, complaint):
    assert exit_code("sweep", source, *arguments) == 2
    assert complaint in capsys.readouterr().err.replace("\n", "")
