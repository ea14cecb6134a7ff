"""The methods that the paper compares CPR with, and newer ones that control the size of weights."""

from cpr.baselines.adadecay import AdamAdaDecay
from cpr.baselines.amos import AMOS
from cpr.baselines.awd import AdamAWD
from cpr.baselines.cautious import CautiousAdamW
from cpr.baselines.corrected import AdamC
from cpr.baselines.decay_schedule import DecayScheduledAdamW, cosine_weight_decay
from cpr.baselines.huber_decay import AdamHD
from cpr.baselines.hyperball import Hyperball
from cpr.baselines.rescaling import RescaledAdam

__all__ = [
    "AMOS",
    "AdamAWD",
    "AdamAdaDecay",
    "AdamC",
    "AdamHD",
    "CautiousAdamW",
    "DecayScheduledAdamW",
    "Hyperball",
    "RescaledAdam",
    "cosine_weight_decay",
]
