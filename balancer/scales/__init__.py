"""Scales: the factor of each loss before the gradients are combined, one method per file."""

from balancer.scales.amnl import AMNL
from balancer.scales.baseline_loss import BaselineLoss
from balancer.scales.db_mtl import DBMTL
from balancer.scales.dwa import DWA
from balancer.scales.ema_norm import EmaNorm
from balancer.scales.famo import FAMO
from balancer.scales.first_epoch import FirstEpoch
from balancer.scales.gls import GLS
from balancer.scales.gradient_normalization import GradientNormalization
from balancer.scales.gradnorm import GradNorm
from balancer.scales.imtl_l import IMTLL
from balancer.scales.initial_loss import InitialLoss
from balancer.scales.lr_modulation import LRModulation
from balancer.scales.realtime_loss import RealtimeLoss
from balancer.scales.rlw import RLW
from balancer.scales.static import Static
from balancer.scales.stch import STCH
from balancer.scales.uncertainty import Uncertainty
from balancer.scales.uncertainty_log1p import UncertaintyLog1p
from balancer.scales.vqgan import VQGAN

__all__ = [
    "AMNL",
    "DBMTL",
    "DWA",
    "FAMO",
    "GLS",
    "IMTLL",
    "RLW",
    "STCH",
    "VQGAN",
    "BaselineLoss",
    "EmaNorm",
    "FirstEpoch",
    "GradNorm",
    "GradientNormalization",
    "InitialLoss",
    "LRModulation",
    "RealtimeLoss",
    "Static",
    "Uncertainty",
    "UncertaintyLog1p",
]
