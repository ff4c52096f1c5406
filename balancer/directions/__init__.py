"""Directions: how the scaled gradients are weighted against each other, one method per file."""

from balancer.directions.aligned_mtl import AlignedMTL
from balancer.directions.cagrad import CAGrad
from balancer.directions.conflict_free import ConflictFree
from balancer.directions.dualproj import DualProj
from balancer.directions.fairgrad import FairGrad
from balancer.directions.graddrop import GradDrop
from balancer.directions.gradvac import GradVac
from balancer.directions.imtl_g import IMTLG
from balancer.directions.mgda import MGDA
from balancer.directions.nash_mtl import NashMTL
from balancer.directions.pcd import PCD
from balancer.directions.pcgrad import PCGrad
from balancer.directions.sum import Sum
from balancer.directions.upgrad import UPGrad

__all__ = [
    "IMTLG",
    "MGDA",
    "PCD",
    "AlignedMTL",
    "CAGrad",
    "ConflictFree",
    "DualProj",
    "FairGrad",
    "GradDrop",
    "GradVac",
    "NashMTL",
    "PCGrad",
    "Sum",
    "UPGrad",
]
