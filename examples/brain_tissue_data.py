"""Cuts the MNI brain template that nilearn ships into one small MRI data set per hospital.

The anatomy is real MRI: the ICBM 152 template (2009a, symmetric, 1 mm), an average of 152 T1 scans, with the grey and
white matter maps that belong to it. What is simulated is who scanned what: every hospital gets another part of the
brain, cut into blocks, and every block is given the look of that hospital's scanner (contrast, brightness, a smooth
bias field, Rician noise, slice blur). No voxel belongs to two hospitals, nor to both training and validation.

The job folder examples/brain_tissue holds no script, because everything in a job is signed, sent and approved.

    python examples/brain_tissue_data.py build/brain_tissue --sites hospitalA hospitalB hospitalC
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Voxel = TypeVar("Voxel", bound=np.generic)

MAX_SITES = 5
BLOCK_PLANES = 16  # coronal planes of 1 mm in a block; three halvings of the network's grid leave 2
BRAIN_X = (25, 173)  # voxels of the template that hold brain, left to right: 148 mm
BRAIN_Y = (28, 204)  # back to front: 176 mm, 11 blocks
BRAIN_Z = (0, 156)  # bottom to top: 156 mm
HALF_Z = 78  # the plane that parts lower from upper blocks
VALIDATION_EVERY = 3  # of a site's blocks, every third validates and never trains
WHITE = 1000.0  # brightness of white matter at gain 1, in the arbitrary units of MRI
TEMPLATE_FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
LABELS = {"0": "background and fluid", "1": "grey matter", "2": "white matter"}


@dataclass(frozen=True)
class Scanner:
    """How a scanner renders the same tissue.

    Attributes:
        label: the name shown in data sheets and figures.
        gamma: exponent on the brightness; above 1 widens the contrast between grey and white, below 1 narrows it.
        gain: factor on the brightness; receivers are not calibrated.
        bias: half the range of the smooth multiplicative field, 0.3 means 0.7 to 1.3.
        noise: standard deviation of the Rician noise, as a part of white matter's brightness.
        blur: standard deviation of the point spread, in mm.
    """

    label: str
    gamma: float
    gain: float
    bias: float
    noise: float
    blur: float


SCANNERS = (
    Scanner("3 T, sharp", gamma=1.0, gain=1.0, bias=0.15, noise=0.03, blur=0.0),
    Scanner("1.5 T, noisy", gamma=0.75, gain=0.4, bias=0.25, noise=0.07, blur=0.3),
    Scanner("3 T, strong bias field", gamma=1.35, gain=2.2, bias=0.45, noise=0.04, blur=0.4),
    Scanner("1 T, soft", gamma=0.9, gain=0.7, bias=0.2, noise=0.06, blur=0.6),
    Scanner("7 T, very uneven", gamma=1.2, gain=3.0, bias=0.5, noise=0.03, blur=0.0),
)
UNSEEN_SCANNER = Scanner("a scanner that no site has", gamma=1.15, gain=1.5, bias=0.35, noise=0.055, blur=0.2)


@dataclass(frozen=True)
class Template:
    """The template's T1 image in 0..1 and its labels, both (197, 233, 189), and the affine to MNI millimetres."""

    t1: NDArray[np.float32]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """A box of template voxels: half-open ranges along x, y and z."""

    x: tuple[int, int]
    y: tuple[int, int]
    z: tuple[int, int]

    def cut(self, volume: NDArray[Voxel]) -> NDArray[Voxel]:
        """The block's part of a volume of the template's shape."""
        return volume[slice(*self.x), slice(*self.y), slice(*self.z)]


WHOLE_BRAIN = Block((20, 178), (26, 210), (0, 160))


def template_folder() -> Path:
    """The folder inside the installed nilearn wheel that holds the template; nilearn itself is not imported.

    Raises:
        FileNotFoundError: nilearn is not installed.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("expected the package nilearn, whose wheel holds the template; pip install nilearn")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


def load_template(folder: Path | None = None) -> Template:
    """Reads T1, grey and white matter maps; a voxel's label is the most probable of grey, white and neither.

    Raises:
        FileNotFoundError: nilearn or one of the three files is missing.
    """
    folder = folder or template_folder()
    images = {name: nibabel.load(folder / TEMPLATE_FILE.format(name)) for name in ("t1", "gm", "wm")}
    t1, grey, white = (np.asarray(images[name].dataobj).astype(np.float32) / 255 for name in ("t1", "gm", "wm"))
    neither = np.clip(1 - grey - white, 0, 1)
    labels = np.argmax(np.stack([neither, grey, white]), axis=0).astype(np.uint8)
    brightness = float(np.median(t1[labels == 2]))
    return Template((t1 / brightness).astype(np.float32), labels, images["t1"].affine)


def bias_field(shape: Sequence[int], half_range: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A smooth positive field of `shape` with values from 1 - half_range to 1 + half_range.

    A product of slow cosines with random phase along each axis, as coils show: at most one wave per 300 mm.
    """
    field = np.ones(tuple(shape))
    for axis, size in enumerate(shape):
        millimetres = np.arange(size) / rng.uniform(160, 300)
        wave = np.cos(np.pi * (millimetres + rng.uniform(0, 2)))
        field *= (1 + 0.8 * wave).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    spread = np.ptp(field) or 1.0
    scaled: NDArray[np.float32] = (1 + half_range * (2 * (field - field.min()) / spread - 1)).astype(np.float32)
    return scaled


def scan(t1: NDArray[np.float32], scanner: Scanner, rng: np.random.Generator) -> NDArray[np.int16]:
    """Renders tissue brightness (x, y, z), white matter near 1, as `scanner` would; int16 of the same shape."""
    image = np.power(np.clip(t1, 0, None), scanner.gamma)
    if scanner.blur:
        image = gaussian_filter(image, scanner.blur)
    image = image * bias_field(image.shape, scanner.bias, rng)
    # Magnitude images hold the length of a complex signal, so noise is Rician: it never goes below zero.
    real = image + rng.normal(0, scanner.noise, image.shape)
    imaginary = rng.normal(0, scanner.noise, image.shape)
    gain = scanner.gain * rng.uniform(0.85, 1.15) * WHITE
    return np.clip(np.hypot(real, imaginary) * gain, 0, np.iinfo(np.int16).max).astype(np.int16)


def blocks_of_site(index: int, sites: int) -> list[Block]:
    """The blocks of site `index` of `sites`: a run of coronal slabs, each parted into a lower and an upper half."""
    slabs = [(y, y + BLOCK_PLANES) for y in range(BRAIN_Y[0], BRAIN_Y[1], BLOCK_PLANES)]
    mine = np.array_split(np.arange(len(slabs)), sites)[index]
    halves = ((BRAIN_Z[0], HALF_Z), (HALF_Z, BRAIN_Z[1]))
    return [Block(BRAIN_X, slabs[slab], half) for slab in mine for half in halves]


def write_volume(path: Path, voxels: NDArray[Any], block: Block, template: Template) -> None:
    """Writes a NIfTI volume whose affine keeps the block at its place in MNI space."""
    affine = template.affine.copy()
    affine[:3, 3] = (template.affine @ [block.x[0], block.y[0], block.z[0], 1])[:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def write_site(folder: Path, index: int, sites: int, template: Template, seed: int) -> dict[str, int]:
    """Writes one hospital's folder in the Decathlon layout; the same seed gives the same voxels.

    Returns:
        Number of cases by key of dataset.json: "training" and "validation".
    """
    scanner = SCANNERS[index]
    cases: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    for number, block in enumerate(blocks_of_site(index, sites)):
        rng = np.random.default_rng([seed, index, number])
        name = f"brain_{number:03d}.nii.gz"
        write_volume(folder / "imagesTr" / name, scan(block.cut(template.t1), scanner, rng), block, template)
        write_volume(folder / "labelsTr" / name, block.cut(template.labels), block, template)
        key = "validation" if number % VALIDATION_EVERY == 1 else "training"
        cases[key].append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    data_set = {
        "name": "BrainTissue",
        "description": f"part {index + 1} of {sites} of the ICBM 152 template, back to front; simulated scanner look",
        "reference": "Fonov et al., NeuroImage 54:313-327 (2011); files as shipped by nilearn",
        "licence": "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, McGill University",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": LABELS,
        "scanner": asdict(scanner),
        "numTraining": len(cases["training"]),
        **cases,
    }
    (folder / "dataset.json").write_text(json.dumps(data_set, indent=1) + "\n", encoding="utf-8")
    return {key: len(listed) for key, listed in cases.items()}


def write_unseen(folder: Path, template: Template, seed: int) -> dict[str, str]:
    """Writes the whole brain as a scanner that no site has renders it: for pictures, not for scores.

    Its anatomy is what the sites trained on, so it shows that a model copes with another look, not with another brain.

    Returns:
        Paths of "image" and "label".
    """
    block = WHOLE_BRAIN
    rng = np.random.default_rng([seed, MAX_SITES])
    case = {name: str(folder / f"{name}.nii.gz") for name in ("image", "label")}
    write_volume(Path(case["image"]), scan(block.cut(template.t1), UNSEEN_SCANNER, rng), block, template)
    write_volume(Path(case["label"]), block.cut(template.labels), block, template)
    return case


def make_data(
    out: Path, sites: Sequence[str], seed: int = 0, template: Template | None = None
) -> dict[str, dict[str, int]]:
    """Writes OUT/<site>/ for every site.

    Raises:
        ValueError: not 1 to MAX_SITES sites, or a name twice.
        FileNotFoundError: the template is not installed.
    """
    if not 1 <= len(sites) <= MAX_SITES or len(set(sites)) != len(sites):
        raise ValueError(f"expected 1 to {MAX_SITES} different site names, got {list(sites)}")
    template = template or load_template()
    return {site: write_site(out / site, index, len(sites), template, seed) for index, site in enumerate(sites)}


def main() -> int:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description="Cuts the MNI template into one data set per hospital.")
    parser.add_argument("out", type=Path, help="folder to write; one sub-folder per site")
    parser.add_argument("--sites", nargs="+", default=["hospitalA", "hospitalB", "hospitalC"], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="of bias fields and noise")
    options = parser.parse_args()
    try:
        counts = make_data(options.out, options.sites, options.seed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for site, cases in counts.items():
        print(f"{options.out / site}: {cases['training']} training and {cases['validation']} validation volumes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
