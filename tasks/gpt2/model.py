"""GPT-2 as the paper trains it.

It has rotary embedding on half of each head, no learned positions, tied embeddings and biases
everywhere.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import LinearCrossEntropyOptions

from tasks.gpt2.config import Shape


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021, in GPT-NeoX's order) of every head's first `rotated` features."""

    cos: Tensor
    sin: Tensor

    def __init__(self, rotated: int, context: int) -> None:
        super().__init__()
        self.rotated = rotated
        frequencies = 10000.0 ** (-torch.arange(0, rotated, 2) / rotated)
        angles = torch.arange(context)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)  # [context, rotated / 2]
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [batch, heads, tokens, head features], rotated, with the same shape and dtype."""
        tokens = x.shape[-2]
        cos, sin = self.cos[:tokens].to(x.dtype), self.sin[:tokens].to(x.dtype)
        a, b, kept = x.split([self.rotated // 2, self.rotated // 2, x.shape[-1] - self.rotated], dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos, kept], dim=-1)


class Attention(nn.Module):
    """Causal self-attention. PyTorch uses the flash kernel if there is one."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.rotary = Rotary(shape.rotated, shape.context) if shape.positions == "rotary" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v, dropout_p=dropout, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Sequential):
    """Feed-forward of four times the width. The paper prints 4048 for GPT2m, but 4096 gives its parameter count."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(
            nn.Linear(shape.width, 4 * shape.width), nn.GELU("tanh"), nn.Linear(4 * shape.width, shape.width)
        )


class Block(nn.Module):
    """Attention and feed-forward, each after a LayerNorm and with a residual connection."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(shape.width), Attention(shape)
        self.norm2, self.mlp = nn.LayerNorm(shape.width), MLP(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT2(nn.Module):
    """A decoder that uses its token embedding as output matrix.

    `loss_chunk` is the number of tokens for which the loss holds logits at a time.
    """

    def __init__(self, shape: Shape, loss_chunk: int = 2048) -> None:
        super().__init__()
        self.shape = shape
        self.loss_options = LinearCrossEntropyOptions(batch_chunk_size=loss_chunk, chunking_method=None)
        self.token_embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.pos_embedding = (
            nn.Parameter(torch.empty(shape.context, shape.width)) if shape.positions == "learned" else None
        )
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self._initialize()

    def _initialize(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                nn.init.constant_(parameter, float("norm" in name and name.endswith("weight")))
            elif self.shape.init == "normal":
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.uniform_(parameter, -0.02, 0.02)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return logits [batch, tokens, vocabulary] of tokens [batch, tokens].

        With targets of the same shape, return their mean loss in nats instead.
        """
        x = self.token_embedding(tokens)
        if self.pos_embedding is not None:
            x = x + self.pos_embedding[: tokens.shape[1]]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if targets is None:
            return F.linear(x, self.token_embedding.weight)
        return self._loss(x.flatten(0, 1), targets.flatten())

    def _loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return the loss without ever holding all logits. PyTorch's chunked loss ignores autocast, so cast here."""
        weight = self.token_embedding.weight
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        return F.linear_cross_entropy(x, weight, targets, options=self.loss_options).float()
