"""OML: its data sets, its inference, its search and its metrics, with features in place of pictures."""

import numpy as np
import pytest
import torch
from support.recipes import run

from pose2id import centralize, evaluate
from pose2id.integrations.oml import centralized_results

RECOMMENDED = {"k1": 3, "k2": 3, "alpha": 4}


@pytest.fixture(scope="module")
def oml(package):
    package("omegaconf")
    package("oml.metrics")
    package("oml.inference")
    package("oml.datasets.dataframe")
    return package("oml")


@pytest.fixture
def dataset(oml, demo, package):
    """A function that builds a data set of the demo set, from which rows are queries and which the gallery."""
    pandas = package("pandas")

    class Rows(oml.interfaces.datasets.IBaseDataset):
        input_tensors_key, index_key = "input", "index"

        def __init__(self):
            self.extra_data = {}

        def __len__(self):
            return len(demo.ids)

        def __getitem__(self, item):
            return {"input": demo.features[item], "index": item}

    def build(query=range(240), gallery=range(240, 1500), cameras=True):
        rows = np.arange(len(demo.ids))
        table = {"label": demo.ids, "is_query": np.isin(rows, list(query)), "is_gallery": np.isin(rows, list(gallery))}
        if cameras:  # the rule of Market-1501: not scored on items of its identity from its camera
            table["sequence"] = [f"{identity}_{camera}" for identity, camera in zip(demo.ids, demo.cams, strict=True)]
        return oml.datasets.dataframe.DFQueryGalleryLabeledDataset(Rows(), pandas.DataFrame(table))

    return build


class Network(torch.nn.Identity):
    """Passes rows on; OML takes the device from a parameter."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))


@pytest.fixture
def embeddings(oml, dataset):
    return oml.inference.inference(Network(), dataset(), batch_size=200, num_workers=0, verbose=False)


def measure(oml, results, gallery=1260):
    """Mean average precision over the whole list, and rank-1."""
    metrics = oml.metrics.calc_retrieval_metrics_rr(results, map_top_k=(gallery,), cmc_top_k=(1,), verbose=False)
    return float(metrics["map"][gallery]), float(metrics["cmc"][1])


def test_scores_are_those_of_this_library(oml, demo, dataset, embeddings, own_scores, check, settings):
    given = {**settings, "exclude": demo.cams} if settings else {}
    results = centralized_results(embeddings, dataset(), 1260, **given)
    scores = own_scores(settings)
    assert check(measure(oml, results), scores, "OML 4.0.0", settings)


def test_recipe(oml, demo, dataset, embeddings, own_scores, check):
    names = {"embeddings": embeddings, "dataset": dataset(), "cams": demo.cams}
    metrics = run("OML", calc_retrieval_metrics_rr=oml.metrics.calc_retrieval_metrics_rr, **names)["metrics"]
    assert check(
        (metrics["map"][1260].item(), metrics["cmc"][1].item()), own_scores({**RECOMMENDED, "exclude": "cams"})
    )


def test_without_neighbours_it_is_from_embeddings(oml, dataset, embeddings):
    whole = torch.nn.functional.normalize(embeddings)
    theirs = oml.retrieval.RetrievalResults.from_embeddings(whole, dataset(), n_items=50)
    own = centralized_results(embeddings, dataset(), 50, k1=0)
    for expected, found in (
        (theirs.distances, own.distances),
        (theirs.retrieved_ids, own.retrieved_ids),
        (theirs.gt_ids, own.gt_ids),
    ):
        assert len(expected) == len(found) == 240
        pairs = zip(expected, found, strict=True)
        assert all(torch.allclose(one.double(), other.double(), atol=1e-5) for one, other in pairs)


def test_rows_that_are_query_and_gallery(oml, demo, dataset, embeddings, check):
    """Each gets a vector on either side, and does not find itself."""
    query, gallery = np.arange(240), np.arange(120, 1500)
    results = centralized_results(embeddings, dataset(query, gallery), len(gallery), exclude=demo.cams, **RECOMMENDED)
    sides = [centralize(demo.features[rows], exclude=demo.cams[rows], **RECOMMENDED) for rows in (query, gallery)]
    distances = np.linalg.norm(sides[0][:, None].astype(np.float64) - sides[1][None], axis=2)
    labels = demo.ids[query], demo.ids[gallery], demo.cams[query], demo.cams[gallery]
    assert check(measure(oml, results, len(gallery)), evaluate(distances, *labels))
    in_place = embeddings.clone()  # what earlier recipes did: the gallery's vectors overwrite those of the queries
    for rows, pulled in zip((query, gallery), sides, strict=True):
        in_place[rows] = torch.tensor(pulled)
    wrong = oml.retrieval.RetrievalResults.from_embeddings(in_place, dataset(query, gallery), n_items=len(gallery))
    assert abs(measure(oml, wrong, len(gallery))[0] - measure(oml, results, len(gallery))[0]) > 1e-3


def test_one_set_against_itself(oml, demo, dataset, embeddings, check):
    rows = np.arange(400)
    results = centralized_results(embeddings, dataset(rows, rows, cameras=False), 400, **RECOMMENDED)
    pulled = centralize(demo.features[rows], **RECOMMENDED).astype(np.float64)
    distances = np.linalg.norm(pulled[:, None] - pulled[None], axis=2)
    assert check(measure(oml, results, 400), evaluate(distances, demo.ids[rows]))


def test_generated_features_and_numpy(demo, dataset):
    results = centralized_results(demo.features, dataset(), 5, generated=demo.generated, eta=2.0)
    sides = [centralize(demo.features[rows], demo.generated[rows], eta=2.0) for rows in (demo.query, demo.gallery)]
    nearest = np.linalg.norm(sides[0][0].astype(np.float64) - sides[1], axis=1)
    nearest[(demo.ids[demo.gallery] == demo.ids[0]) & (demo.cams[demo.gallery] == demo.cams[0])] = np.inf
    np.testing.assert_allclose(results.distances[0], np.sort(nearest)[:5], atol=1e-4)


def test_postprocessors_take_the_results(oml, dataset, embeddings):
    results = centralized_results(embeddings, dataset(), **RECOMMENDED)
    near = oml.retrieval.ConstantThresholding(0.5).process(results)
    assert max(float(distances.max()) for distances in near.distances if len(distances)) < 0.5


def test_a_set_of_another_size_is_said(dataset, embeddings):
    with pytest.raises(ValueError, match="must have 1500 rows, as the data set has items, received 7"):
        centralized_results(embeddings[:7], dataset())
