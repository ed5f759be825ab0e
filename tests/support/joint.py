"""A tiny model of BGE-M3's kind: dense, sparse and multi-vector rows from one backbone."""

import shutil

from support.checkpoints import REFERENCE


def make_joint_folder(parent):
    """Its folder under `parent`: a random XLM-R with the files of the two further heads."""
    folder = shutil.copytree(REFERENCE / "xlm-roberta-cls", parent / "m3")
    for name in ("sparse_linear", "colbert_linear"):
        shutil.copy(REFERENCE / "hybrid" / f"{name}.safetensors", folder)
    return folder
