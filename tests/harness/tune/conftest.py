"""A study.db for these tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest


@pytest.fixture(scope="session")
def empty_study_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optuna's tables without a study: to make them takes ten times as long as to copy the file."""
    path = tmp_path_factory.mktemp("study") / "empty.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def study_db(empty_study_db: Path, tmp_path: Path) -> Path:
    """The place of a study.db that holds no study yet."""
    return Path(shutil.copy(empty_study_db, tmp_path / "study.db"))
