"""The bench's workload: GPT-2 as the paper trains it, for timing only.

Rotary embedding on half of each head, no learned positions, tied embeddings of 50,264 tokens, dropout 0.1, biases. The paper's parameter
counts follow from it: 124, 354, 773 million and 1.19 billion.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.1


@dataclass(frozen=True)
class Size:
    """Width, layers, heads and vocabulary of a GPT-2."""

    width: int
    layers: int
    heads: int
    vocabulary: int = 50264


def rotate(x: Tensor) -> Tensor:
    """Rotary embedding on the first half of each head; x: [batch, heads, tokens, head width]."""
    half = x.shape[-1] // 2
    turned, kept = x[..., :half], x[..., half:]
    frequency = 10000.0 ** (-torch.arange(0, half, 2, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = turned.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, kept], dim=-1)


class Block(nn.Module):
    """Attention and feed-forward, each after a LayerNorm and beside a residual."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm1, self.norm2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.qkv, self.out = nn.Linear(size.width, 3 * size.width), nn.Linear(size.width, size.width)
        self.up, self.down = nn.Linear(size.width, 4 * size.width), nn.Linear(4 * size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v, dropout_p=DROPOUT, is_causal=True)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), DROPOUT)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), DROPOUT)


class GPT2(nn.Module):
    """Loss of the next token, from token indices [batch, tokens]."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(size.vocabulary, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.dropout(self.embedding(tokens[:, :-1]), DROPOUT)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def activation_bytes(size: Size, batch: int, context: int) -> int:
    """About what forward keeps for backward, in float32 and with attention weights held (on a GPU it is less)."""
    per_token = size.layers * (28 * size.width + 4 * size.heads * context) + 3 * size.vocabulary
    return 4 * batch * context * per_token
