"""The methods that the paper compares CPR with."""

from cpr.baselines.adadecay import AdamAdaDecay
from cpr.baselines.amos import AMOS
from cpr.baselines.awd import AdamAWD
from cpr.baselines.decay_schedule import DecayScheduledAdamW, cosine_weight_decay
from cpr.baselines.rescaling import RescaledAdam

__all__ = ["AMOS", "AdamAWD", "AdamAdaDecay", "DecayScheduledAdamW", "RescaledAdam", "cosine_weight_decay"]
