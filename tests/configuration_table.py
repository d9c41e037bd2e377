"""Every value of our ten configurations beside s3prl's, and why some differ.

    python tests/configuration_table.py    # writes docs/configurations.md

The facts are in s3prl_configurations.json, which names their origin.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from pruned_upstream.resources import downstream_config_path
from pruned_upstream.superb.configuration import resolve
from pruned_upstream.superb.tasks import TASKS

FACTS = Path(__file__).with_name("s3prl_configurations.json")
PAGE = Path(__file__).parents[1] / "docs/configurations.md"
ABSENT = "(absent)"

PATH = "a path: it is replaced by that of the user's data"
NOT_CHOSEN = "an option of a model or loss that the configuration does not choose"

# task.key -> why ours is another; `*` stands for any part
REASONS: Mapping[str, str] = {
    "pr.downstream_expert.corpus.path": PATH,
    "pr.downstream_expert.model.Wav2Letter.*": NOT_CHOSEN,
    "pr.downstream_expert.model.RNNs.*": NOT_CHOSEN,
    "asr.downstream_expert.datarc.libri_root": PATH,
    "asr.downstream_expert.datarc.bucket_file": PATH,
    "asr.downstream_expert.datarc.dict_path": PATH,
    "asr.downstream_expert.datarc.decoder_args.kenlm_model": PATH,
    "asr.downstream_expert.datarc.decoder_args.lexicon": PATH,
    "asr.downstream_expert.modelrc.Wav2Letter.*": NOT_CHOSEN,
    "ks.downstream_expert.datarc.speech_commands_root": PATH,
    "ks.downstream_expert.datarc.speech_commands_test_root": PATH,
    "qbe.downstream_expert.datarc.dataset_root": PATH,
    "sid.downstream_expert.datarc.file_path": PATH,
    "sid.downstream_expert.datarc.meta_data": PATH,
    "sv.downstream_expert.datarc.file_path": PATH,
    "sv.downstream_expert.datarc.train_meta_data": PATH + "; s3prl opens this list and does not use it",
    "sv.downstream_expert.datarc.dev_meta_data": PATH + "; s3prl opens this list and does not use it",
    "sv.downstream_expert.datarc.test_meta_data": PATH,
    "sv.downstream_expert.modelrc.module_config.Identity.*": NOT_CHOSEN,
    "sv.downstream_expert.modelrc.LossConfig.SoftmaxLoss.*": NOT_CHOSEN,
    "sv.downstream_expert.modelrc.LossConfig.AAMSoftmaxLoss.*": NOT_CHOSEN,
    "sd.downstream_expert.loaderrc.*_dir": PATH,
    "ic.downstream_expert.datarc.file_path": PATH,
    "sf.downstream_expert.corpus.path": PATH,
    "sf.downstream_expert.text.slots_file": PATH,
    "sf.downstream_expert.model.Wav2Letter.*": NOT_CHOSEN,
    "er.downstream_expert.datarc.root": PATH,
    "er.downstream_expert.datarc.meta_data": PATH,
    "er.downstream_expert.modelrc.DeepModel.*": NOT_CHOSEN,
}

# what a run changes in every configuration besides paths: `configuration.resolve`
AT_RUN_TIME: Mapping[str, str] = {
    "runner.max_keep": "2 where s3prl has 1: s3prl deletes the former checkpoint before it saves the next, so that a "
    "kill between the two would leave none; which checkpoint is best does not depend on it",
}


@dataclass(frozen=True)
class Row:
    """One value: `reason` is None where both say the same."""

    task: str
    key: str
    s3prl: Any
    ours: Any
    reason: str | None

    @property
    def same(self) -> bool:
        return self.s3prl == self.ours and (self.s3prl is not ABSENT)


def facts() -> dict[str, Any]:
    return json.loads(FACTS.read_text(encoding="utf-8"))


def rows() -> Iterator[Row]:
    """Every key that either side has, s3prl's order first."""
    for task, of_task in facts()["tasks"].items():
        theirs = of_task["values"]
        ours = dict(flat(yaml.safe_load(downstream_config_path(task).read_text(encoding="utf-8"))))
        for key in dict.fromkeys([*theirs, *ours]):
            value, own = theirs.get(key, ABSENT), ours.get(key, ABSENT)
            yield Row(task, key, value, own, None if value == own else reason(task, key))


def reason(task: str, key: str) -> str | None:
    return next((why for pattern, why in REASONS.items() if fnmatch(f"{task}.{key}", pattern)), None)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`a.b.c` -> value; an empty section is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed_at_run_time(task: str) -> dict[str, tuple[Any, Any]]:
    """What a full run, its paths aside, does to the shipped configuration."""
    shipped = dict(flat(yaml.safe_load(downstream_config_path(task).read_text(encoding="utf-8"))))
    resolved = dict(flat(resolve(TASKS[task], {})[0]))
    keys = dict.fromkeys([*shipped, *resolved])
    both = {key: (shipped.get(key, ABSENT), resolved.get(key, ABSENT)) for key in keys}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def page() -> str:
    """The Markdown page of all values."""
    every = list(rows())
    lines = [
        "# Configurations",
        "",
        f"Every value of `downstream_configs/*.yaml` beside {facts()['origin']}.",
        f"{len(every)} values: {sum(row.same for row in every)} are the same, {sum(not row.same for row in every)} "
        "differ for the reason given, and none of those changes what is computed.",
        "This page is written by `python tests/configuration_table.py`; a test compares it with the files.",
        "",
        "A run of `pruned-upstream superb` changes besides paths:",
        "",
        *[f"- `{key}`: {why}." for key, why in AT_RUN_TIME.items()],
        "- `num_workers`: at most as many loading processes as the machine has processors, or `--loader-workers`.",
        "- `--lr`, `--lr-search`: the learning rate, which the benchmark leaves to the user.",
        "- `--steps`, `--short`: another training, and the result is marked as not official.",
        "",
    ]
    for task, of_task in facts()["tasks"].items():
        lines += [f"## {task}: {of_task['file']}", "", "| key | s3prl | here | why |", "|---|---|---|---|"]
        for row in every:
            if row.task == task:
                here = "same" if row.same else cell(row.ours)
                lines.append(f"| `{row.key}` | {cell(row.s3prl)} | {here} | {row.reason or ''} |")
        lines.append("")
    return "\n".join(lines)


def cell(value: Any) -> str:
    if value is ABSENT:
        return ABSENT
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "(empty list)"
    if value is None or isinstance(value, bool):
        return {None: "(empty)", True: "true", False: "false"}[value]
    return str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
