"""Very long recordings are refused before memory is asked for."""

from __future__ import annotations

import pytest
import torch
from tiny import random_encoder, tiny_config

from pruned_upstream.errors import DataError
from pruned_upstream.model import memory
from pruned_upstream.model.config import hubert_base_config, wavlm_base_config, whisper_config

MINUTES = 60 * 16000


def test_the_estimate_grows_as_the_model_does():
    frames = wavlm_base_config().frames(30 * MINUTES)
    assert memory.bytes_needed(wavlm_base_config(), 1, 30 * MINUTES) == 2 * 4 * 12 * frames**2
    assert memory.bytes_needed(wavlm_base_config(), 3, 30 * MINUTES) == 3 * 2 * 4 * 12 * frames**2
    assert memory.bytes_needed(hubert_base_config(), 1, 30 * MINUTES) == 2 * 4 * 512 * 30 * MINUTES // 5
    assert memory.bytes_needed(whisper_config(), 1, 30 * MINUTES) < 1 << 30


def test_what_is_too_long_is_refused_with_a_length_that_would_do(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20 * 10**9)
    config = wavlm_base_config()
    with pytest.raises(
        DataError, match=r"1,800 s: at least 778 GB are needed, and 20 GB .* at most (\d+) s"
    ) as refused:
        memory.require_memory(config, 1, 30 * MINUTES, torch.device("cpu"))
    seconds = int(str(refused.value).rpartition("at most ")[2].partition(" ")[0].replace(",", ""))
    memory.require_memory(config, 1, (seconds - 1) * 16000, torch.device("cpu"))
    with pytest.raises(DataError):
        memory.require_memory(config, 1, (seconds + 1) * 16000, torch.device("cpu"))


def test_an_encoder_asks_before_it_computes(monkeypatch):
    monkeypatch.setattr(memory, "ALWAYS_FINE", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10)
    encoder = random_encoder(tiny_config())
    monkeypatch.setattr(encoder, "features", lambda *args, **kwargs: pytest.fail("it computed"))
    with pytest.raises(DataError, match="cut recordings into parts"):
        encoder.extract([torch.zeros(16000)])


def test_what_is_free_is_known_here():
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or free > 1 << 20
