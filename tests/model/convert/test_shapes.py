"""fairseq's options: parsed, never run, never guessed."""

from __future__ import annotations

import pytest

from pruned_upstream.errors import ConfigError
from pruned_upstream.model.convert.shapes import BASE, parse_conv_layers, shape


def test_conv_layers_are_parsed_not_run(tmp_path):
    assert parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 2") == ((512, 10, 5), (512, 3, 2), (512, 3, 2))
    trace = tmp_path / "trace"
    for text in (f"__import__('os').mkdir({str(trace)!r})", "[(512,10)]", "[(1,2,3)] * 999999999", "", "[('a',1,1)]"):
        with pytest.raises(ConfigError, match="conv_feature_layers"):
            parse_conv_layers(text)
    assert not trace.exists()


def test_options_win_over_defaults_and_none_is_guessed():
    assert shape({"encoder_layers": 3}, BASE)["num_layers"] == 3
    assert shape({}, BASE)["num_layers"] == 12
    with pytest.raises(ConfigError, match="do not say conv_feature_layers, conv_pos"):
        shape({}, {name: value for name, value in BASE.items() if name not in ("conv_feature_layers", "conv_pos")})
    with pytest.raises(ConfigError, match="quantize_input True is not supported"):
        shape({"quantize_input": True}, BASE)
    with pytest.raises(ConfigError, match="must map options to values"):
        shape([], BASE)
