"""Model files on the Hugging Face hub: fetched when a name asks for one, never otherwise.

    hf://OWNER/NAME                            model.safetensors, as `pruned-upstream release` names it
    hf://OWNER/NAME@REVISION                   of a branch, a tag or a commit
    hf://OWNER/NAME@REVISION/model.int8.onnx   another file of the repository

The spelling is that of huggingface_hub's own file system (`HfFileSystem`). Such a name stands in `load`, behind `-k`
and in the commands that read a finished model. Training fetches nothing: recipes want paths, whose files stay what they
are from launch to launch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import CheckpointError
from ..extras import remedy

RELEASED = "model.safetensors"
MODEL_TYPE = "pruned_upstream"  # in the config.json of a folder that transformers reads
SCHEME = re.compile("hf:/{1,2}")  # a Path has lost the second slash
PART = r"[\w-][\w.-]*"  # no "..", which would lead out of the cache
ON_HUB = re.compile(rf"(?P<repo_id>{PART}/{PART})(@(?P<revision>{PART}))?(/(?P<filename>{PART}(/{PART})*))?", re.ASCII)
LONGEST = 1000  # characters of a name on the hub


def local_file(name: str | Path) -> Path:
    """The path itself, or that of the hub's file in the local cache, fetched if it is not there.

    Raises:
        CheckpointError: the name cannot be read; the repository, revision or file does not exist or is not ours to
            read; the hub cannot be reached and the cache does not have the file; huggingface_hub is not installed.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise CheckpointError(f"{type(name).__name__} is no name of a model file; give a path, or a name on the hub")
    place = _place(name)
    if place is None:
        return Path(name)
    return Path(_fetched(**place.groupdict(RELEASED) | {"revision": place["revision"]}))


def require_local(name: str | Path) -> Path:
    """The path itself. Raises CheckpointError for a name on the hub, where nothing may be fetched."""
    place = _place(name)
    if place is not None:
        raise CheckpointError(
            f"{name} is on the hub, and training fetches nothing; `hf download {place['repo_id']}`, and give the path "
            "of the file"
        )
    return Path(name)


def plain_name(name: str | Path) -> str:
    """What a model is called where nobody says: after its file, an ONNX file with its ending, or its repository.

    >>> plain_name("runs/compact.safetensors"), plain_name("compact.int8.onnx"), plain_name("hf://owner/small.model@v1.0")
    ('compact', 'compact.int8.onnx', 'small.model@v1.0')
    """
    place = _place(name)
    if place is None:
        return Path(name).name if Path(name).suffix == ".onnx" else Path(name).stem
    revision = "" if place["revision"] is None else f"@{place['revision']}"
    file = "" if place["filename"] is None else f"-{place['filename'].replace('/', '-')}"
    return place["repo_id"].partition("/")[2] + revision + file


def _place(name: str | Path) -> re.Match[str] | None:
    """Repository, revision and file of a name on the hub; None for a path."""
    scheme = SCHEME.match(str(name))
    if scheme is None:
        return None
    place = ON_HUB.fullmatch(str(name)[scheme.end() :])
    if place is None or len(str(name)) > LONGEST:
        raise CheckpointError(f"{str(name)[:LONGEST]} is no place on the hub; write hf://OWNER/NAME[@REVISION][/FILE]")
    return place


def _fetched(repo_id: str, revision: str | None, filename: str) -> str:
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise CheckpointError(
            f"hf://{repo_id} needs the hub's client: {remedy('huggingface_hub')}; or download {filename} by hand and "
            "give its path"
        ) from error
    place = repo_id if revision is None else f"{repo_id} at {revision}"
    try:
        return hf_hub_download(repo_id, filename, revision=revision)
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"the hub cannot be reached, and {filename} of {place} was not fetched before; check the network, or "
            "give the path of a copy"
        ) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(f"{place} has no file {filename}; add the name of the one it has, after a /") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id} has no revision {revision}; name a branch, a tag or a commit") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{repo_id} is gated; ask for access on its page, then `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub shows no repository {repo_id}; check its name, or log in with `hf auth login` if it is private"
        ) from error
    except (errors.HFValidationError, errors.HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{filename} of {place} could not be fetched from the hub: {reason}") from error
    except OSError as error:
        raise CheckpointError(
            f"{filename} of {place} could not be put into the hub's cache ({error.strerror or error}); name a folder "
            "with room, that may be written, in the environment variable HF_HOME"
        ) from error
