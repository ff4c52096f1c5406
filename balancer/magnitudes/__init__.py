"""Magnitudes: the norm of the combined gradient, one method per file.

Without a common rule, strategies differ mostly in the norm of their result. The norm decides the ratio to the
commitment loss and to the clipping threshold.
"""

from balancer.magnitudes.fixed import Fixed
from balancer.magnitudes.keep import Keep
from balancer.magnitudes.match_sum import MatchSum
from balancer.magnitudes.sum_of_norms import SumOfNorms

__all__ = ["Fixed", "Keep", "MatchSum", "SumOfNorms"]
