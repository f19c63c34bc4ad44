"""Tests that need a browser say why they are left out, and in CI they are never left out in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import browser


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder that browsers are looked for in."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("ci", [True, False])
@pytest.mark.parametrize("there", ["nothing", "one that does not start"])
def test_without_a_browser_a_test_is_skipped_with_the_reason_and_fails_in_ci(
    only: Path, monkeypatch: pytest.MonkeyPatch, ci: bool, there: str
) -> None:
    reason = "is on the path"
    if there != "nothing":
        (only / "chromium").write_text("#!/bin/sh\nexit 1\n")
        (only / "chromium").chmod(0o755)
        reason = "chromium does not start"
    monkeypatch.setenv("CI", "true") if ci else monkeypatch.delenv("CI", raising=False)
    expected = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(expected, match=rf"no Chromium .*{reason}.*apt-get install chromium"), browser():
        pass
