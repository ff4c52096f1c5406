"""Gradients of many losses at the decoder output into one.

Legend: M losses in the config, m of them active in a step; n = B * C * T values of the output. A Jacobian is [m, n],
a Gramian [m, m]. Weights, lengths and Gramians are float64.
"""

from balancer.balancer import Balance, Balanced, Balancer, Direction, Magnitude, Scale
from balancer.directions import Sum
from balancer.magnitudes import Fixed, Keep
from balancer.scales import EmaNorm, Static
from balancer.statistics import Statistics

__all__ = [
    "Balance",
    "Balanced",
    "Balancer",
    "Direction",
    "EmaNorm",
    "Fixed",
    "Keep",
    "Magnitude",
    "Scale",
    "Static",
    "Statistics",
    "Sum",
]
