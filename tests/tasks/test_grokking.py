"""The task grokking: its data and its model."""

import math

import torch
import torch.nn.functional as F

from tasks.grokking.data import split
from tasks.grokking.model import Decoder


def test_grokking_splits_all_pairs_into_3830_for_training_and_the_rest():
    (train, train_sums), (validation, validation_sums) = split(113, 0.3, seed=0)
    assert train.shape == (3_830, 3) and len(train) + len(validation) == 113**2
    both, sums = torch.cat([train, validation]), torch.cat([train_sums, validation_sums])
    assert {(a, b) for a, b, _ in both.tolist()} == {(a, b) for a in range(113) for b in range(113)}
    assert sums.tolist() == [(a + b) % 113 for a, b, _ in both.tolist()] and (both[:, 2] == 113).all()
    assert torch.equal(split(113, 0.3, seed=0)[0][0], train) and not torch.equal(split(113, 0.3, seed=1)[0][0], train)


def test_the_decoder_equals_a_full_causal_one_on_the_last_position_in_logits_and_gradients():
    torch.manual_seed(0)
    model = Decoder(113)
    tokens = split(113, 0.3, seed=0)[0][0][:64]
    x = model.token_embedding(tokens) + model.pos_embedding
    causal, mixed = torch.full((3, 3), -math.inf).triu(1), []
    for head in (slice(32 * i, 32 * i + 32) for i in range(4)):
        q, k, v = (projection(x)[:, :, head] for projection in (model.query, model.key, model.value))
        mixed.append((q @ k.transpose(1, 2) / math.sqrt(32) + causal).softmax(-1) @ v)
    x = x + model.output(torch.cat(mixed, dim=2))
    x = x + model.mlp_out(model.mlp_in(x).relu())
    full = model.unembedding(x)
    torch.testing.assert_close(model(tokens), full[:, -1], rtol=0, atol=1e-5)
    parameters = list(model.parameters())
    sums = tokens[:, :2].sum(1) % 113
    expected = torch.autograd.grad(F.cross_entropy(full[:, -1], sums), parameters)
    torch.testing.assert_close(
        torch.autograd.grad(F.cross_entropy(model(tokens), sums), parameters), expected, rtol=0, atol=1e-5
    )
