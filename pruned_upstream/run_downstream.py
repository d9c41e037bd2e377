"""s3prl's `run_downstream.py` with our upstreams in it, on any supported torch, with unchanged arguments.

    python -m pruned_upstream.run_downstream -m train -u pruned_wavlm -k compact.safetensors -d speech_commands -p run
    torchrun --nproc_per_node 4 -m pruned_upstream.run_downstream ...

`run_downstream.py` on the PATH is the same. Beyond s3prl's own: `-c` also takes the bare name of a shipped config
(ks, asr ...); without `-c` the shipped config of the task stands in where s3prl's own is missing; vocabularies, lists
and folds that a config names and pip leaves out are supplied; several `-o` add up; `-e` with `-k` finds a model that
has moved; without `--device` a machine without a GPU computes on its CPU; `--local-rank` is understood, as is
torchrun's environment.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import difflib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ConfigError, DataError, PrunedUpstreamError
from .machine import fault, lost_file
from .parsing import read_mapping
from .resources import downstream_config_path

USAGE_ERROR = 2


def main(arguments: list[str] | None = None) -> None:
    """Run s3prl's command line; a user's mistake is printed as a sentence, and the exit code is 2."""
    try:
        run(sys.argv[1:] if arguments is None else arguments)
    except PrunedUpstreamError as error:
        _complain(sentence(error))
    except (OSError, MemoryError, RuntimeError) as error:
        said = fault(error)
        if said is None:
            raise
        _complain(said)


def _complain(said: str) -> None:
    print(f"error: {said}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def run(arguments: list[str]) -> None:
    """Compatibility layer, registration, then s3prl's own `main`.

    Raises:
        PrunedUpstreamError: an upstream, downstream, config or checkpoint that does not exist or cannot be used.
    """
    from .extras import remedy
    from .s3prl_plugin.registry import register

    if importlib.util.find_spec("s3prl") is None:
        raise ConfigError(remedy("s3prl"))
    register()
    before = sys.argv, builtins.isinstance
    try:
        from s3prl import run_downstream as s3prl_runner

        sys.argv = ["run_downstream.py", *prepare(arguments)]
        with _made_ready(s3prl_runner, arguments):
            s3prl_runner.main()
    except ModuleNotFoundError as error:
        raise PrunedUpstreamError(
            f"the package '{error.name}' is not installed, and s3prl imports it; `pip install {error.name}`, or "
            "reinstall pruned_upstream, which declares what the ten tasks import"
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{lost_file(error)} does not exist; is the path in the config, or given with -o, the right one?"
        ) from error
    finally:
        sys.argv, builtins.isinstance = before  # s3prl's main exchanges the second


@contextlib.contextmanager
def _made_ready(runner: Any, arguments: list[str]) -> Iterator[None]:
    """What s3prl makes of the command line is completed before it is used, and a layer that is none is named."""
    from .superb import runner_input
    from .superb.supply import supply

    read, choose_features, override = runner.get_downstream_args, runner.Runner._get_featurizer, runner.override
    known, _ = _parser().parse_known_args(arguments)

    def read_and_complete() -> tuple[argparse.Namespace, dict[str, Any], list[str]]:
        args, config, backup_files = read()
        training = args.mode == "train"
        runner_input.check_config(config, training=training)
        if args.mode != "inference":  # of one recording, which -t names
            runner_input.check_splits(args.downstream, config, split=None if training else args.evaluate_split)
        if known.upstream_ckpt is not None:
            args.upstream_ckpt = known.upstream_ckpt  # s3prl would take the one of the training
        _check_model(args)
        supply(args.downstream, config, _splits(args, config))
        return args, config, backup_files

    def choose_or_say(self: Any) -> Any:
        if self.args.upstream_layer_selection is not None:
            _check_layer(self.upstream.model, self.args)
        return choose_features(self)

    runner.get_downstream_args, runner.Runner._get_featurizer = read_and_complete, choose_or_say
    runner.override = runner_input.checked(override)
    try:
        yield
    finally:
        runner.get_downstream_args, runner.Runner._get_featurizer = read, choose_features
        runner.override = override


def _splits(args: argparse.Namespace, config: dict[str, Any]) -> list[str]:
    """What s3prl's runner will read."""
    if args.mode == "evaluate":
        return [args.evaluate_split]
    dev = (config.get("runner") or {}).get("eval_dataloaders", ())
    return ["train", *(dev if isinstance(dev, list) else [dev])]


def _check_model(args: argparse.Namespace) -> None:
    from .s3prl_plugin.registry import ENTRIES

    path = args.upstream_ckpt
    lost = args.past_exp and path and args.upstream in ENTRIES and os.path.isabs(path) and not os.path.exists(path)
    if lost:
        raise DataError(f"the model {path} of this experiment is not there any more; say where it is now with -k")


def _check_layer(upstream: Any, args: argparse.Namespace) -> None:
    """Asked for before s3prl chooses: of an upstream with one layer it takes that one, whatever `-l` says."""
    import torch

    with torch.no_grad(), torch.random.fork_rng():  # the head's weights are drawn afterwards
        features = upstream([torch.randn(16000, device=args.device)]).get(args.upstream_feature_selection)
    layer = args.upstream_layer_selection
    if isinstance(features, list | tuple | dict) and not -len(features) <= layer < len(features):
        raise ConfigError(
            f"there is no layer {layer} for -l; the upstream's {args.upstream_feature_selection} are 0 to "
            f"{len(features) - 1}"
        )


def prepare(arguments: list[str]) -> list[str]:
    """s3prl's arguments with names made paths and torch's spelling of the rank made s3prl's.

    Raises:
        ConfigError: an upstream, downstream or config of that name does not exist.
        DataError: there is nothing to resume or evaluate at the path given.
    """
    from .superb.runner_input import check_overrides

    known, rest = _parser().parse_known_args(arguments)
    _check_start(arguments, known)
    if known.past_exp is not None:
        rest += ["-e", known.past_exp]
    if known.upstream is not None:
        _check_upstream(known.upstream, from_hub="huggingface" in rest)
        rest += ["-u", known.upstream]
    if known.downstream is not None:
        _check_downstream(known.downstream)
        rest += ["-d", known.downstream]
    if known.upstream_ckpt is not None:
        rest += ["-k", known.upstream_ckpt]
    if known.override:
        override = ",,".join(known.override)
        if override.lower() != "none":
            check_overrides(override)
        rest += ["-o", override]
    config = known.config
    if config is not None:
        config = downstream_config_path(config)
    elif known.past_exp is None and known.downstream is not None:
        config = _default_config(known.downstream)
    if config is not None:
        read_mapping(Path(config), "the config ")
        rest += ["-c", str(config)]
    local_rank = known.local_rank if known.local_rank is not None else os.environ.get("LOCAL_RANK")
    if local_rank is not None:
        rest += ["--local_rank", local_rank]
    return rest + ["--device", chosen_device(known.device, distributed=local_rank is not None)]


def sentence(error: Exception) -> str:
    """The error's own words; a DataLoader worker's error carries them on the last line of its traceback."""
    last = str(error).strip().splitlines()[-1]
    return last.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-u", "--upstream")
    parser.add_argument("-d", "--downstream")
    parser.add_argument("-c", "--config")
    parser.add_argument("-e", "--past_exp")
    parser.add_argument("-k", "--upstream_ckpt")
    parser.add_argument("-o", "--override", action="append")
    parser.add_argument("--local-rank", "--local_rank")
    parser.add_argument("--device")
    return parser


def _parser_of_start() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--mode", choices=("train", "evaluate", "inference"))
    parser.add_argument("-i", "--init_ckpt")
    parser.add_argument("-p", "--expdir")
    parser.add_argument("-a", "--auto_resume", action="store_true")
    return parser


def _check_upstream(name: str, *, from_hub: bool) -> None:
    from s3prl import hub

    known = hub.options()
    if name not in known and not from_hub:
        raise ConfigError(f"s3prl has no upstream {name}; {_hint(name, known)}")


def _check_downstream(name: str) -> None:
    import s3prl.downstream

    known = sorted(
        path.parent.name for folder in s3prl.downstream.__path__ for path in Path(folder).glob("*/expert.py")
    )
    if name not in known:
        raise ConfigError(f"s3prl has no downstream task {name}; {_hint(name, known)}")


def chosen_device(wanted: str | None, *, distributed: bool = False) -> str:
    """The device s3prl is given: the wanted one, else the GPU where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    try:
        kind, number = (torch.device(wanted).type, torch.device(wanted).index) if wanted else (None, None)
    except RuntimeError as error:
        raise ConfigError(f"'{wanted}' is no device; say cpu, cuda or cuda:N") from error
    if torch.cuda.is_available():
        if kind == "cuda" and number is not None and number >= torch.cuda.device_count():
            raise ConfigError(f"there is no GPU for --device {wanted}: this machine has {torch.cuda.device_count()}")
        return wanted or "cuda"
    if distributed:
        raise ConfigError("s3prl gives each process of torchrun a GPU, and there is none; start one without torchrun")
    if kind == "cuda":
        raise ConfigError(f"there is no GPU for --device {wanted}; leave it out, or say --device cpu")
    return wanted or "cpu"


def _check_start(arguments: list[str], known: argparse.Namespace) -> None:
    """What the runner is to start from: a checkpoint that is one, or an upstream and a task."""
    from .superb.runner_input import read_experiment, read_states

    more, _ = _parser_of_start().parse_known_args(arguments)
    if known.past_exp is not None:
        read_experiment(_checkpoint(Path(known.past_exp)))
    elif more.mode is not None and (known.upstream is None or known.downstream is None):
        raise ConfigError(
            f"-m {more.mode} needs -e with a checkpoint, or the folder of an experiment; or -u with an upstream and -d "
            "with a task"
        )
    if more.auto_resume and more.expdir is not None and any(Path(more.expdir).glob("states-*.ckpt")):
        read_experiment(_checkpoint(Path(more.expdir)))
    if more.init_ckpt is not None:
        read_states(_checkpoint(Path(more.init_ckpt)))


def _checkpoint(path: Path) -> Path:
    """The file that s3prl reads: of a folder its last checkpoint."""
    from .superb.runner_input import saved_checkpoints

    if not path.exists():
        raise DataError(f"there is no checkpoint {path}; name one of an experiment's *.ckpt files, or its folder")
    if not path.is_dir():
        return path
    saved = saved_checkpoints(path)
    if not saved:
        raise DataError(f"{path} holds no checkpoint states-*.ckpt to go on from; was anything saved there?")
    return saved[-1]


def _default_config(downstream: str) -> Path | None:
    """The shipped config for a task whose `downstream/<task>/config.yaml` s3prl would look for in vain."""
    if Path("downstream", downstream, "config.yaml").is_file():
        return None
    from .superb.tasks import TASKS

    matching = [name for name, task in TASKS.items() if task.downstream == downstream]
    if len(matching) != 1:
        choice = " or ".join(f"-c {name}" for name in matching) or "-c with the path of one"
        raise ConfigError(f"the task {downstream} needs a config: {choice}")
    return downstream_config_path(matching[0])


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(known)}"


# A data loader's worker that is started afresh instead of forked executes the main module under this name, and imports
# s3prl right behind it.
if "__mp_main__" in sys.modules:
    from .s3prl_plugin import compat

    compat.apply()

if __name__ == "__main__":
    main()
