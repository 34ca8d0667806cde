"""The demo's two jobs: where their data comes from, and which pictures are worth a look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brain_tissue_data
import hippocampus_data
from demo_programs import DemoError

EXAMPLES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class SiteData:
    """What a hospital writes into its policy.yml about its data."""

    data_root: Path
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class DemoJob:
    """A job that the demo can run.

    Attributes:
        folder: the MMAR.
        data: what each site's policy says, by site.
        labels: names of the labels above 0.
        axis: the axis that the figure's planes are perpendicular to.
        unseen: image and label of one more case for the figure, or None.
        note: honest words about the data.
    """

    folder: Path
    data: Mapping[str, SiteData]
    labels: Mapping[int, str]
    axis: int
    unseen: Mapping[str, str] | None
    note: str


def brain_tissue(sites: Sequence[str], given: Path | None, out: Path) -> DemoJob:
    """Grey and white matter on parts of the MNI template; `given` has a folder per site, or they are made.

    Raises:
        DemoError: nilearn is not installed, or `given` lacks a site's folder.
    """
    folder = given or out / "data"
    try:
        if given is None:
            counts = brain_tissue_data.make_data(folder, sites)
            for site, cases in counts.items():
                print(f"  {site}: {cases['training']} training and {cases['validation']} validation volumes")
        roots = {site: hippocampus_data.check_folder(folder / site) for site in sites}
        unseen = brain_tissue_data.write_unseen(out / "unseen_scanner", brain_tissue_data.load_template(), seed=0)
    except (OSError, ValueError) as error:
        raise DemoError(str(error)) from error
    return DemoJob(
        folder=EXAMPLES / "brain_tissue",
        data={site: SiteData(root, {}) for site, root in roots.items()},
        labels={1: "grey matter", 2: "white matter"},
        axis=1,
        unseen=unseen,
        note="Anatomy: ICBM 152 average brain, cut into parts; scanner looks are simulated. First rows: a volume that\n"
        "the site keeps for validation. Last row: the same anatomy as a scanner that no site has would show it.",
    )


def hippocampus(sites: Sequence[str], given: Path | None, out: Path) -> DemoJob:
    """Anterior and posterior hippocampus; every site reads its own share of one folder in the Decathlon's layout.

    Raises:
        DemoError: `given` is no such folder, or nothing was given and the download failed.
    """
    try:
        root = hippocampus_data.check_folder(given) if given else hippocampus_data.download(out.parent / "downloads")
    except OSError as error:
        hint = "" if given else "; give a folder in the Decathlon's layout: make demo JOB=hippocampus DATA=FOLDER"
        raise DemoError(f"{error}{hint}") from error
    count = len(sites)
    return DemoJob(
        folder=EXAMPLES / "hippocampus",
        data={
            site: SiteData(root, {"SITE_INDEX": index, "SITE_COUNT": count}) for index, site in enumerate(sorted(sites))
        },
        labels={1: "anterior hippocampus", 2: "posterior hippocampus"},
        axis=0,
        unseen=None,
        note="Clinical T1 MRI: Medical Segmentation Decathlon, Task04 (CC-BY-SA 4.0), dealt out to sites by volume.\n"
        "Each row: a volume that the site keeps for validation; sagittal plane.",
    )


JOBS = {"brain_tissue": brain_tissue, "hippocampus": hippocampus}
