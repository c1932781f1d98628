"""Runs of the real model side by side: another graph of its weights, and an untrained copy."""

import pytest
from onnxloc_exporters.gguf_ import GGUFExporter

from onnxloc import CompareOptions, compare
from onnxloc.cli import main

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def runs(bundle_path, gguf_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    GGUFExporter(with_past=True).export(gguf_path, folder / "with-past", name="with-past")
    assert main(["untrain", str(bundle_path), "-o", str(folder / "untrained")]) == 0
    for name, model in (
        ("plain", bundle_path),
        ("past", folder / "with-past"),
        ("untrained", folder / "untrained"),
    ):
        words = ["localize", str(model), "--keep-activations", "--threads", "2"]
        assert main([*words, "-o", str(folder / "runs" / name)]) == 0
    return folder / "runs"


def test_the_same_weights_give_the_same_units_and_an_untrained_copy_does_not(runs):
    names = [runs / name for name in ("plain", "past", "untrained")]
    found = compare(names, CompareOptions(permutations=20))
    assert (found.runs["units"] == 17_280).all()
    assert found.runs["model_hash"].nunique() == 3
    assert found.notes == ()
    pairs = found.pairs.set_index(["a", "b"])
    same, other = pairs.loc[("plain", "past")], pairs.loc[("plain", "untrained")]
    assert same["sites"] == 30
    assert same["largest_t_difference"] < 1e-2
    assert same["pearson"] > 0.999999
    assert same["dice"] >= 0.98
    assert same["dice_p"] < 1e-100
    assert same["depth_distance"] < 1e-2
    assert same["cka_debiased_same_site"] > 0.9999
    assert same["best_depth_spearman"] > 0.99
    assert abs(other["spearman"]) < 0.3
    assert other["dice"] < 0.1
    assert other["cka_debiased_same_site"] < 0.2
    # However unlike an untrained copy is, it reads the same words.
    assert other["cka_same_site"] > other["cka_debiased_same_site"]
