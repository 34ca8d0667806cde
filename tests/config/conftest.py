"""Job folders and archives."""

import io
import zipfile

import pytest


@pytest.fixture
def job_folder(tmp_path):
    folder = tmp_path / "brain"
    for name, text in {
        "config/config_fed.yml": "rounds: 3\n",
        "config/config_train.json": "{}",
        "BYOC/net.py": "print('hello')\n",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="session")
def zipped():
    """An archive of entries (name or ZipInfo, bytes), as someone else's zip program makes it."""

    def build(*entries, compression=zipfile.ZIP_STORED):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", compression) as archive:
            for name, content in entries:
                archive.writestr(name, content)
        return data.getvalue()

    return build
