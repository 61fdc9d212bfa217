"""The baseline, by value: what it compares, its two losses, what learns."""

import torch
from support.encoders import learning, small_trunk, toy_batch

from pose2id.encoders import Global


def test_the_baseline():
    """Means behind a normalisation without a shift; the classes smoothed by a tenth, and the hardest triplets."""
    torch.manual_seed(0)
    encoder, batch = Global(4, small_trunk()).double().eval(), toy_batch()
    batch = batch._replace(images=batch.images.double())
    norm, linear = encoder.classify.norm, encoder.classify.linear
    for value, low in ((norm.running_mean, 0), (norm.running_var, 0.5), (norm.weight.data, 0.5)):
        value.uniform_(low, 1)
    torch.nn.init.normal_(linear.weight)
    means = encoder.trunk(batch.images).mean((2, 3))
    found = encoder(batch.images)
    features = (means - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight
    torch.testing.assert_close(found.features, features)
    torch.testing.assert_close(found.maps.mean((2, 3)), means)
    logs = (features @ linear.weight.T).log_softmax(1)
    own = logs[torch.arange(16), batch.ids]
    distances, same = torch.cdist(means, means), batch.ids[:, None] == batch.ids
    far, near = distances.masked_fill(~same, 0).amax(1), distances.masked_fill(same, 99).amin(1)
    terms = encoder.loss(batch)
    torch.testing.assert_close(terms["identity"], -(0.9 * own + 0.1 * logs.mean(1)).mean())
    torch.testing.assert_close(terms["triplet"], torch.relu(far - near + 0.3).mean())
    assert learning(encoder.train(), batch) == {name for name, _ in encoder.named_parameters()} - {"classify.norm.bias"}
