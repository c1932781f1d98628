"""Check a wheel: it holds every file of the packages, as another wheel does."""

import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def packed(wheel: str) -> dict[str, int]:
    """Names and checksums of the files of the packages."""
    with zipfile.ZipFile(wheel) as archive:
        found = {info.filename: info.CRC for info in archive.infolist()}
    return {name: crc for name, crc in found.items() if ".dist-info/" not in name}


def expected() -> set[str]:
    """Every file that lies in a package's folder."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    names = set()
    for package in tool["packages"]:
        top, *rest = package.split(".")
        folder = ROOT.joinpath(tool["package-dir"][top], *rest)
        files = (file for file in folder.iterdir() if file.is_file() and file.suffix != ".pyc")
        names |= {"/".join([top, *rest, file.name]) for file in files}
    return names


if __name__ == "__main__":
    from_sdist, from_tree = map(packed, sys.argv[1:])
    if missing := expected() ^ set(from_sdist):
        sys.exit(f"the wheel and the tree differ: {', '.join(sorted(missing))}")
    if from_sdist != from_tree:
        sys.exit("the wheel of the sdist is not the wheel of the tree")
    print(f"{len(from_sdist)} files in the wheel, as in the tree")
