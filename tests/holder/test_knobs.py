from __future__ import annotations

from tigrismount.holder.knobs import raise_read_ahead


def test_read_ahead_is_set(tmp_path):
    knob = tmp_path / "0:52" / "read_ahead_kb"
    knob.parent.mkdir()
    knob.write_text("128\n")
    assert raise_read_ahead("0:52", 4096, directory=str(tmp_path)) == []
    assert knob.read_text() == "4096"


def test_where_it_may_not_be_set_a_warning_says_so(tmp_path):
    [warning] = raise_read_ahead("0:52", 4096, directory=str(tmp_path))
    assert "stays at its default" in warning
    assert warning.endswith("0:52/read_ahead_kb: No such file or directory")
