"""What a start finds out about FlashInfer without importing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dendrite_core.forward.cuda.attention_flashinfer import nothing_compiled


def test_kernels_on_disk_are_found_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, cache = tmp_path / "site" / "flashinfer", tmp_path / "base" / ".cache" / "flashinfer"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path / "base"))
    assert nothing_compiled()
    kernel = cache / "0.6.14" / "90a" / "cached_ops" / "merge" / "merge.so"
    kernel.parent.mkdir(parents=True)
    assert nothing_compiled()
    kernel.touch()
    assert not nothing_compiled()
    kernel.unlink()
    (package / "data" / "aot").mkdir(parents=True)
    (package / "data" / "aot" / "merge.so").touch()
    assert not nothing_compiled()


def test_without_the_package_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dendrite_core.forward.cuda.attention_flashinfer.find_spec", lambda _: None)
    assert nothing_compiled()
