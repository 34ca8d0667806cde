"""Finds, or downloads, the hippocampus volumes of the Medical Segmentation Decathlon.

Real clinical MRI: Task04, crops of about 35 x 51 x 35 voxels at 1 mm, labels anterior and posterior hippocampus
(Simpson et al., arXiv:1902.09063; CC-BY-SA 4.0). One folder is enough for a trial on one computer: the job deals the
volumes out to the sites by itself (`part` in config_train.json), so nothing is copied.

    python examples/hippocampus_data.py build
"""

import argparse
import sys
from pathlib import Path

TASK = "Task04_Hippocampus"


def check_folder(folder: Path) -> Path:
    """Makes sure that `folder` is in the Decathlon's layout.

    Returns:
        The folder, absolute.

    Raises:
        FileNotFoundError: dataset.json is not in it.
    """
    folder = folder.expanduser().resolve()
    if not (folder / "dataset.json").is_file():
        raise FileNotFoundError(f"{folder}: expected a folder in the Decathlon's layout, with dataset.json in it")
    return folder


def download(root: Path) -> Path:
    """Downloads Task04 (28 MB) below `root` unless it is there, through MONAI, which checks its digest.

    Returns:
        Path to the folder with dataset.json.

    Raises:
        FileNotFoundError: it could not be downloaded.
    """
    from monai.apps import DecathlonDataset  # noqa: PLC0415 -- takes seconds, and only a download needs it

    folder = root / TASK
    if not (folder / "dataset.json").is_file():
        root.mkdir(parents=True, exist_ok=True)
        try:
            DecathlonDataset(root, TASK, section="training", download=True, cache_num=0, num_workers=0)
        except Exception as error:
            raise FileNotFoundError(f"{TASK} could not be downloaded ({error})") from error
    return check_folder(folder)


def main() -> int:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=f"Downloads {TASK} of the Medical Segmentation Decathlon.")
    parser.add_argument("root", type=Path, help=f"folder to download to; makes ROOT/{TASK}")
    options = parser.parse_args()
    try:
        print(download(options.root))
    except OSError as error:
        print(f"error: {error}; download it from http://medicaldecathlon.com and unpack it there", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
