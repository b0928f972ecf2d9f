"""Make the BCCD folders that scripts/bccd.py trains on, from the data set's public repository.

Command: .venv/bin/python scripts/get_bccd.py DATA/bccd [--clone FOLDER]
Clones 8 MB of github.com/Shenggan/BCCD_Dataset (MIT licence), or reads a clone that is there, and
writes images/ and annotations/instances_{train,val,test}.json by its own lists of 205, 87 and 72
images.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from resnestkit.data.detection.voc import convert_voc

REPOSITORY = "https://github.com/Shenggan/BCCD_Dataset"
COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"


def main() -> None:
    """Clone, convert, and lay the images beside their annotations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clone", type=Path, help="a clone that is there already")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    with tempfile.TemporaryDirectory() as temporary:
        clone = arguments.clone or Path(temporary) / "clone"
        if arguments.clone is None:
            subprocess.run(["git", "clone", "--quiet", REPOSITORY, str(clone)], check=True)
            subprocess.run(["git", "-C", str(clone), "checkout", "--quiet", COMMIT], check=True)
        convert_voc(clone / "BCCD", folder)
        (folder / "images").unlink()
        shutil.copytree(clone / "BCCD" / "JPEGImages", folder / "images")
    for path in sorted((folder / "annotations").iterdir()):
        path.write_text(json.dumps(as_recorded(json.loads(path.read_text()))))
        print(path)


def as_recorded(file: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Boxes as the recorded trainings read them: edges taken as they are in the XML files.

    VOC's rule, by which `resnestkit data convert` goes, has them a pixel further left and up, and
    a pixel larger; two boxes without area fall away here.
    """
    kept = []
    for one in file["annotations"]:
        left, top, width, height = one["bbox"]
        if width > 1 and height > 1:
            box = [left + 1, top + 1, width - 1, height - 1]
            kept.append({**one, "bbox": box, "area": box[2] * box[3]})
    return {**file, "annotations": kept}


if __name__ == "__main__":
    main()
