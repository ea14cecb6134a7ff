"""A one-layer causal decoder without LayerNorm (Nanda et al. 2023), as the paper's grokking experiment uses it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Decoder(nn.Module):
    """Read (a, b, =) and predict a + b at the last position.

    No other position attends to the last one, and the loss reads the last one alone. Queries, the
    MLP and the logits are therefore computed only there. In a one-layer model this is the same
    function of the parameters, at under half the cost.
    """

    def __init__(self, modulus: int, width: int = 128, heads: int = 4, mlp_factor: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.token_embedding = nn.Embedding(modulus + 1, width)  # the numbers and "="
        self.pos_embedding = nn.Parameter(torch.empty(3, width))
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.mlp_in = nn.Linear(width, mlp_factor * width)
        self.mlp_out = nn.Linear(mlp_factor * width, width)
        self.unembedding = nn.Linear(width, modulus, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [batch, modulus] of tokens [batch, 3]."""
        x = self.token_embedding(tokens) + self.pos_embedding
        last = x[:, -1:]
        attended = F.scaled_dot_product_attention(
            self._split(self.query(last)), self._split(self.key(x)), self._split(self.value(x))
        )
        last = last + self.output(attended.transpose(1, 2).flatten(2))
        last = last + self.mlp_out(F.relu(self.mlp_in(last)))
        return self.unembedding(last.squeeze(1))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
