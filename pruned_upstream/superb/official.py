"""How many items the official corpora have, and the hashes of the lists that s3prl ships: what `official` rests on.

Counts, with where each comes from:

    pr, asr   LibriSpeech's README and paper (utterances of train-clean-100, dev-clean, test-clean): exact
    ks        Speech Commands v0.01, files of its 30 words, and of its test archive: exact
    qbe       QUESST 2014's language keys, the English lines: as counted on the distribution
    sid       VoxCeleb1's identification split (iden_split.txt): exact
    sv        VoxCeleb1's development audio (1 211 speakers) and s3prl's trial list: exact
    sd        Libri2Mix train-100, dev and test: exact; a few copies have 3 002 test mixtures
    ic, sf    the csv files of Fluent Speech Commands; Audio SNIPS' three folders: exact
    er        s3prl's folds; their sum is the 5 531 utterances of four classes that the literature has: exact

Hashes: s3prl/s3prl, main, commit ec8064b5, the files below s3prl/downstream.
"""

from __future__ import annotations

from collections.abc import Mapping

FOLDS = ("Session1", "Session2", "Session3", "Session4", "Session5")
_FOLD_SIZES = (1085, 1023, 1151, 1031, 1241)
_LIBRISPEECH = {"train": (28539,), "dev": (2703,), "test": (2620,)}

COUNTS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "pr": _LIBRISPEECH,
    "asr": _LIBRISPEECH,
    "ks": {"train and dev": (64721,), "test": (3081,)},
    "qbe": {"recordings": (2438,), "dev queries": (138,), "eval queries": (138,)},
    "sid": {"train": (138361,), "dev": (6904,), "test": (8251,)},
    "sv": {"train": (148642,), "trials": (37720,)},
    "sd": {"train": (13900,), "dev": (3000,), "test": (3000, 3002)},
    "ic": {"train": (23132,), "valid": (3118,), "test": (3793,)},
    "sf": {"train": (104672,), "valid": (2800,), "test": (2800,)},
    "er": {fold: (size,) for fold, size in zip(FOLDS, _FOLD_SIZES, strict=True)}
    | {f"{fold}, train": (sum(_FOLD_SIZES) - size,) for fold, size in zip(FOLDS, _FOLD_SIZES, strict=True)},
}
"""Task -> part -> numbers of items that are official."""

SHA256: Mapping[str, str] = {
    "voxceleb1_test_v2.txt": "303b2b657042a27bf465d4c8aa84e12765373cdc01046665241ccd5783bd5976",
    "librispeech-lexicon-allothers-g2p.txt": "5473abdf594196db8f3a7cd26792350f7c32ef04fef2da4630e1bc7245ff4c0f",
    "Session1/test_meta_data.json": "0653ffa7c7f3ed313ad04bdc42ebf9f08f8ff92afacb532857d43fbb33e68172",
    "Session1/train_meta_data.json": "198c0fc2f6ac98ead33eeddc22d44dc37ab9beae7202ce0259661f6018d498a0",
    "Session2/test_meta_data.json": "2dc5bf4cedeb98b291c66ebf5972a0b3c7fa19d869544c49db7621049e169a73",
    "Session2/train_meta_data.json": "4ae76fff972ac9c0b7624c7c40483f49459ad18c56578c65181f664dee942d14",
    "Session3/test_meta_data.json": "fe497d4200d0b625908cad59e4c44c6feffff8f41c146eb3de7e2c48509ed5f3",
    "Session3/train_meta_data.json": "3866e3f503b3b9c787164ca63d85e092c664d5f8760b4861480603f32c14f10a",
    "Session4/test_meta_data.json": "a7372cfcaa9759315d7cd5174662301a4c32c57c79a1e9879c0257525266deaf",
    "Session4/train_meta_data.json": "e000c70412b2bbe4d6a5197025231ea8d69a9c1d26cb66e611315f2175955b19",
    "Session5/test_meta_data.json": "7effae9ac25d74dfc5a11f8184b850b7f974a0ba1fc7b47fc3204abebe9d7afc",
    "Session5/train_meta_data.json": "bd0bcd3aabf847a867926375337de63d48907f852a1fd9192151cb2663a3fad4",
}
"""List, by the end of its path -> hash. Other lists (the larger lexicon, SID's split) are counted alone."""

TRAINING_CHECKPOINTS = tuple(range(20_000, 200_001, 20_000))
"""Steps at which SV is tested (s3prl, downstream/sv_voxceleb1/test_expdir.sh)."""

SCORERS: Mapping[str, str] = {"qbe": "score-TWV-Cnxe.sh", "sd": "dscore"}
"""Task -> what scores its predictions, or by whose conventions they are scored."""

HASH_OF = "sha256 of "
"""A result's details have the hash of each list it rests on under this and the list's name."""
