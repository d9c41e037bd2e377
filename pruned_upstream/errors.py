"""The errors a user can cause: one sentence that says what is wrong, where, and what to do."""


class PrunedUpstreamError(Exception):
    """A mistake in the input, not in the program; the command line prints it and exits with 2."""


class CheckpointError(PrunedUpstreamError):
    """A model file that is missing, damaged, foreign or unsafe."""


class ConfigError(PrunedUpstreamError):
    """A recipe or an encoder shape that cannot be built."""


class DataError(PrunedUpstreamError):
    """Audio, manifests or corpora that cannot be used as they are."""
