"""What users of other re-identification code reported, tried here: each test names the public report."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pose2id import evaluate, evaluate_features, rerank, rerank_top
from pose2id.datasets import load_demo, read_dataset
from pose2id.jaccard import jaccard_distances


def test_query_and_gallery_of_one_camera():
    """TransReID 62, SOLIDER-REID 12, deep-person-reid 509: "all query identities do not appear in gallery".

    They do, but the market1501 rule leaves out a query's own camera: the error says that, and what to do.
    """
    distances = np.array([[0.1, 0.2], [0.3, 0.1]])
    with pytest.raises(ValueError, match="own camera are left out: if there is one camera only, leave the cams away"):
        evaluate(distances, [1, 2], [1, 2], [0, 0], [0, 0])
    with pytest.raises(ValueError, match="check ids"):
        evaluate(distances, [1, 2], [3, 4], [0, 0], [0, 0])
    assert evaluate(distances, [1, 2], [1, 2]).mAP == 1.0


def test_a_query_without_a_match_counts_nowhere():
    """deep-person-reid 17, fast-reid 153: the compiled and the plain code disagreed; ianvs 447: IndexError."""
    distances = np.array([[0.2, 0.1, 0.3], [0.1, 0.2, 0.3]])
    scores = evaluate(distances, [7, 1], [1, 2, 1])
    assert scores.valid_queries == 1
    assert scores.mAP == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert np.isnan(scores.average_precision[0])
    with pytest.raises(ValueError, match="at least one query must have a match"):
        evaluate(distances, [7, 8], [1, 2, 1])


def test_labels_as_lists_strings_and_tensors():
    """Person_reID_baseline_pytorch 74: mAP 0 with labels that were no numpy arrays."""
    distances = np.array([[0.2, 0.1, 0.3], [0.1, 0.2, 0.3]])
    expected = evaluate(distances, np.array([1, 2]), np.array([1, 2, 1]))
    for kind in (list, torch.tensor, lambda x: [str(i) for i in x], tuple):
        found = evaluate(distances, kind([1, 2]), kind([1, 2, 1]))
        assert found.mAP == expected.mAP > 0


def test_more_relevant_items_than_one_are_real_shares():
    """Person_reID_baseline_pytorch 4: recall was an integer division, so mAP was 3 % at a rank-1 of 87 %."""
    assert evaluate(np.array([[1.0, 2.0, 3.0]]), [1], [1, 1, 2]).mAP == 1.0
    assert evaluate(np.array([[1.0, 3.0, 2.0]]), [1], [1, 1, 2]).mAP == pytest.approx((1 + 2 / 3) / 2)


def test_vehicles_without_cameras():
    """OpenUnReID 24: all cameras 0 for VehicleID, and every right item is left out.

    Without cameras nothing is left out; equal ones are told, see above.
    """
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(5), 4)
    features = np.eye(5)[ids] + rng.normal(0, 0.01, (20, 5))
    assert evaluate_features(features, None, ids).mAP == 1.0
    assert evaluate_features(features[::4], features, ids[::4], ids, protocol="vehicleid").rank(1) == 1.0


def test_junk_and_distractors_of_market(tmp_path):
    """person-reid-triplet-loss-baseline 13, fast-reid 8, deep-person-reid 551: 15,913 of 19,732 gallery images.

    Images of -1 are junk, left out by the reader or by `evaluate`, the scores are the same; those of 0000 stay, and
    count as wrong.
    """
    image = pytest.importorskip("PIL.Image").new("RGB", (4, 8))
    names = {
        "query": ["0001_c1s1_000001_00.jpg"],
        "bounding_box_test": ["-1_c2s1_000001_01.jpg", "0000_c2s1_000002_01.jpg", "0001_c2s1_000003_01.jpg"],
        "bounding_box_train": ["0002_c1s1_000001_01.jpg"],
    }
    for folder, files in names.items():
        (tmp_path / folder).mkdir()
        for name in files:
            image.save(tmp_path / folder / name)
    data = read_dataset("market1501", tmp_path)
    assert sorted(set(data.gallery.ids.tolist()) - {-1}) == [0, 1]
    distances = np.array([[0.1, 0.2, 0.3]])
    assert evaluate(distances, [1], [-1, 0, 1], [1], [2, 2, 2]).mAP == 0.5
    assert evaluate(distances[:, 1:], [1], [0, 1], [1], [2, 2]).mAP == 0.5


def test_own_camera_is_left_out_and_said():
    """LA-Transformer 3: scores were published with the query's own camera among the answers."""
    distances = np.array([[0.1, 0.3, 0.2]])
    assert evaluate(distances, [1], [1, 1, 2]).mAP == pytest.approx((1 + 2 / 3) / 2)
    assert evaluate(distances, [1], [1, 1, 2], [1], [1, 2, 2]).mAP == 0.5


def test_re_ranking_of_reasonable_features_helps():
    """Person_reID_baseline_pytorch 19, deep-person-reid 455: rank-1 near 0 after re-ranking, or no memory for it."""
    demo = load_demo()
    query, gallery = demo.features[demo.query], demo.features[demo.gallery]
    labels = [part[side] for part in (demo.ids, demo.cams) for side in (demo.query, demo.gallery)]
    base = evaluate_features(query, gallery, *labels)
    distances = rerank(query, gallery)
    assert evaluate(distances, *labels).mAP > base.mAP
    top = rerank_top(query, gallery, 20)
    np.testing.assert_array_equal(top.indices[:, 0], distances.argmin(1))


def test_clusters_of_a_sparse_matrix():
    """OpenUnReID 9: 400,000 x 400,000 distances for DBSCAN. Ours are sparse: what is stored grows with N, not N²."""
    rng = np.random.default_rng(0)
    stored = []
    for n in (200, 800):
        features = np.eye(n // 4, dtype=np.float32)[np.arange(n) // 4] + rng.normal(0, 0.01, (n, n // 4)).astype("f4")
        stored.append(jaccard_distances(features, k1=4, k2=2).nnz)
    assert stored[1] < 5 * stored[0]
