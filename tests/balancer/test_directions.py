"""Properties of directions that follow from the Gramian: no loss rises, invariances, bounds, meaning of weights."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from torch.testing import assert_close

from balancer import Balancer, Direction, Keep, Static
from balancer.directions.aligned_mtl import AlignedMTL
from balancer.directions.cagrad import CAGrad
from balancer.directions.conflict_free import ConflictFree
from balancer.directions.dualproj import DualProj
from balancer.directions.fairgrad import FairGrad
from balancer.directions.imtl_g import IMTLG
from balancer.directions.mgda import MGDA
from balancer.directions.nash_mtl import NashMTL
from balancer.directions.upgrad import UPGrad
from balancer_inputs import leaf, linear, noise
from direction_inputs import DEGENERATE, EVERY, combined, pair, rows_of, scaled_statistics

CONFIGS = Path(__file__).parents[2] / "configs" / "balancer"
NO_LOSS_RISES = [name for name in EVERY if not name.startswith(("cagrad", "aligned"))]
PREFERENCES = [name for name in EVERY if name not in ("cagrad", "cagrad_rescaled", "upgrad", "dualproj")]
CONFLICTS = {
    f"{count} x {size}, seed {seed}": rows_of(count, size, seed)
    for seed in range(2)
    for count, size in [(2, 2), (3, 3), (6, 7), (8, 40)]
}


def float64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def shares(direction: Direction, rows: Tensor) -> Tensor:
    """Signed norms of the parts of the result. Shape: [m]."""
    return direction(scaled_statistics(rows)) * rows.norm(dim=1)


# Guarantees


@pytest.mark.parametrize("name", NO_LOSS_RISES)
def test_no_loss_rises(name: str) -> None:
    for case, rows in (CONFLICTS | DEGENERATE).items():
        progress = normalize(rows) @ combined(EVERY[name], rows)
        # As much is the rounding of such a sum in float32.
        assert progress.min() >= -1e-7 * shares(EVERY[name], rows).abs().sum(), case


@pytest.mark.parametrize("name", ["cagrad", "aligned_mtl"])
def test_with_the_other_directions_a_loss_may_rise(name: str) -> None:
    assert min((rows @ combined(EVERY[name], rows)).min().item() for rows in CONFLICTS.values()) < -0.01


def fair_norm(alpha: float) -> Callable[[Tensor], float]:
    def longest(rows: Tensor) -> float:
        alone = rows.norm(dim=1) ** ((1 - alpha) / (1 + alpha))
        if alpha <= 1:
            return alone.norm(p=1 + alpha).item()
        return 1000 ** (1 - 1 / alpha) * alone.norm().item()

    return longest


def largest_singular(rows: Tensor) -> float:
    return torch.linalg.matrix_norm(rows, 2).item() / math.sqrt(len(rows))


LONGEST: dict[str, Callable[[Tensor], float]] = {
    "mgda": lambda rows: 1.0,
    "mgda_none": lambda rows: rows.norm(dim=1).min().item(),
    "mgda_loss": lambda rows: rows.norm(dim=1).min().item(),  # all losses are 1
    "mgda_loss+": lambda rows: 1.0,
    "cagrad": lambda rows: 1.4 * rows.mean(0).norm().item(),
    "cagrad_rescaled": lambda rows: 1.2 * rows.mean(0).norm().item(),
    "imtl_g": lambda rows: 10 * rows.norm(dim=1).max().item(),
    "nash_mtl": lambda rows: math.sqrt(len(rows)),
    "nash_mtl_clipped": lambda rows: 1.0,
    "fairgrad_half": fair_norm(0.5),
    "fairgrad": fair_norm(2.0),
    "fairgrad_4": fair_norm(4.0),
    "aligned_mtl": largest_singular,
    "aligned_mtl_median": largest_singular,
    "aligned_mtl_rmse": largest_singular,
    "upgrad": lambda rows: rows.norm(dim=1).mean().item(),
    "dualproj": lambda rows: rows.mean(0).norm().item(),
    "conflict_free": lambda rows: rows.norm(dim=1).sum().item(),
}


@pytest.mark.parametrize("name", EVERY)
def test_the_result_is_finite_and_no_longer_than_documented(name: str) -> None:
    for case, rows in (CONFLICTS | DEGENERATE).items():
        parts = shares(EVERY[name], rows)
        assert parts.isfinite().all(), case
        rounding = 1e-6 * rows.norm(dim=1).max() + 1e-12 * parts.abs().sum()
        assert combined(EVERY[name], rows).norm() <= LONGEST[name](rows) * (1 + 1e-9) + rounding, case


@pytest.mark.parametrize("name", EVERY)
def test_in_the_balancer_on_float32_gradients_of_changing_losses(name: str) -> None:
    balancer = Balancer({"a": 1, "b": 2, "c": 1}, Static(), EVERY[name], Keep(), monitor_every=0)
    gradients = noise("abc", (2, 1, 40), seed=3, spread=1e3)
    for present in ("abc", "a", "bc", "abc"):
        output = leaf(2, 1, 40)
        losses = linear(output, {loss: gradients[loss] for loss in present})
        if present == "bc":
            losses["a"] = losses["b"] * float("nan")
        result = balancer(losses, output)
        assert result.is_finite
        weights = {loss: weight.item() for loss, weight in result.weights.items()}
        assert {loss for loss, weight in weights.items() if weight != 0} == set(present)
        expected = torch.stack([weights[loss] * gradients[loss] for loss in present]).sum(0)
        assert_close(result.gradient, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


# Invariances


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_the_order_of_the_losses_does_not_matter(name: str, spread: float) -> None:
    rows = rows_of(6, 20, seed=5, spread=spread)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert_close(shares(EVERY[name], rows[order]), shares(EVERY[name], rows)[order], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_multiplying_one_loss_changes_only_some_directions(name: str) -> None:
    rows = rows_of(4, 10, seed=6)
    louder = rows * float64([1, 1, 50, 1])[:, None]
    cosine = cosine_similarity(combined(EVERY[name], rows), combined(EVERY[name], louder), dim=0)
    if name in ("mgda", "mgda_loss+", "imtl_g", "nash_mtl", "nash_mtl_clipped", "conflict_free"):
        assert cosine > 1 - 1e-9
    else:
        assert cosine < 0.99


POWER_OF_NORM = {"mgda": 0, "mgda_loss+": 0, "nash_mtl": 0, "nash_mtl_clipped": 0, "fairgrad_half": 1 / 3}
POWER_OF_NORM |= {"fairgrad": -1 / 3, "fairgrad_4": -3 / 5}


@pytest.mark.parametrize("name", EVERY)
def test_gradients_as_small_as_those_of_a_codec(name: str) -> None:
    rows = rows_of(6, 20, seed=7)
    expected = 1e-9 ** POWER_OF_NORM.get(name, 1) * combined(EVERY[name], rows)
    assert_close(combined(EVERY[name], 1e-9 * rows), expected, rtol=1e-6, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("name", EVERY)
def test_a_loss_that_is_scaled_to_zero_gets_weight_zero(name: str) -> None:
    rows = rows_of(4, 10, seed=8)
    silenced = EVERY[name](scaled_statistics(rows, scale=[1, 1, 0, 1]))
    kept = [0, 1, 3]
    assert silenced[2] == 0
    assert_close(silenced[kept], EVERY[name](scaled_statistics(rows[kept])))


@pytest.mark.parametrize("name", EVERY)
def test_a_scale_that_is_not_finite_gives_nan(name: str) -> None:
    weights = EVERY[name](scaled_statistics(rows_of(3, 10, seed=8), scale=[1, float("inf"), 1]))
    assert weights.isnan().all()


# Orthogonal rows: most weights are a power of the norm


ORTHOGONAL: dict[str, Callable[[Tensor], Tensor]] = {
    "mgda": lambda n: 1 / n / len(n),
    "mgda_none": lambda n: n**-2 / (n**-2).sum(),
    "mgda_loss": lambda n: n**-2 / (n**-2).sum(),
    "mgda_loss+": lambda n: 1 / n / len(n),
    "imtl_g": lambda n: (1 / n) / (1 / n).sum(),
    "nash_mtl": lambda n: 1 / n,
    "nash_mtl_clipped": lambda n: 1 / n / math.sqrt(len(n)),
    "fairgrad_half": lambda n: n ** (-1 / 1.5),
    "fairgrad": lambda n: n ** (-4 / 3),
    "fairgrad_4": lambda n: n ** (-8 / 5),
    "aligned_mtl": lambda n: n.min() / n / len(n),
    "aligned_mtl_median": lambda n: n.sort().values[(len(n) - 1) // 2] / n / len(n),
    "aligned_mtl_rmse": lambda n: n.square().mean().sqrt() / n / len(n),
    "upgrad": lambda n: torch.full_like(n, 1 / len(n)),
    "dualproj": lambda n: torch.full_like(n, 1 / len(n)),
    "conflict_free": lambda n: n.sum() / n / len(n),
}


@pytest.mark.parametrize("name", ORTHOGONAL)
@pytest.mark.parametrize("norms", [[3.0], [1.0, 2.0], [3.0, 1.0, 0.2, 40.0], [1e-6, 1e-3, 1.0, 1e-5, 0.1, 1e-2]])
def test_weights_of_orthogonal_rows(name: str, norms: list[float]) -> None:
    turned = torch.linalg.qr(rows_of(9, 9, seed=9)).Q[: len(norms)] * float64(norms)[:, None]
    weights = EVERY[name](scaled_statistics(turned))
    assert_close(weights, ORTHOGONAL[name](float64(norms)), rtol=1e-6, atol=0)


# The user's weights


@pytest.mark.parametrize("name", PREFERENCES)
def test_only_the_ratio_of_preferences_matters(name: str) -> None:
    rows = rows_of(3, 10, seed=10)
    expected = combined(EVERY[name], rows)
    assert_close(combined(EVERY[name], rows, [7.0, 7.0, 7.0]), expected)
    assert (combined(EVERY[name], rows, [7.0, 1.0, 7.0]) - expected).norm() > 0.01 * expected.norm()


@pytest.mark.parametrize("name", ["cagrad", "cagrad_rescaled", "upgrad", "dualproj"])
def test_the_other_directions_use_weighted_gradients(name: str) -> None:
    rows = rows_of(3, 4, seed=11)
    weights = float64([0.5, 1.0, 40.0])
    assert_close(combined(EVERY[name], rows, weights.tolist()), combined(EVERY[name], weights[:, None] * rows))


USERS = [1.0, 2.0, 0.5]
ROWS = torch.diag(float64([3.0, 0.1, 1.0])) @ (torch.eye(3, dtype=torch.float64) - 0.2)


def test_mgda_makes_progress_in_proportion() -> None:
    d = combined(MGDA("none"), ROWS, USERS)
    assert_close(ROWS @ d / float64(USERS), (ROWS @ d)[0].expand(3))


def test_imtl_g_makes_projections_in_proportion() -> None:
    projections = normalize(ROWS) @ combined(IMTLG(), ROWS, USERS)
    assert_close(projections / float64(USERS), projections[0].expand(3))


def test_conflict_free_makes_cosines_in_proportion() -> None:
    cosines = normalize(ROWS) @ normalize(combined(ConflictFree(), ROWS, USERS), dim=0)
    assert_close(cosines / float64(USERS), cosines[0].expand(3))
    assert cosines[0] > 0


@pytest.mark.parametrize(("direction", "alpha"), [(NashMTL(), 1.0), (FairGrad(0.5), 0.5), (FairGrad(4), 4.0)])
def test_a_gain_counts_in_proportion_to_its_weight(direction: Direction, alpha: float) -> None:
    users = float64(USERS)
    statistics = scaled_statistics(ROWS, USERS)
    unweighted = direction(statistics) * users  # weights of the unweighted rows
    gains = ROWS @ (unweighted @ ROWS)
    assert_close(gains**alpha, users / users.mean() / unweighted, rtol=1e-5, atol=0)


def test_aligned_mtl_sums_aligned_rows_in_proportion() -> None:
    left, _, right = torch.linalg.svd(ROWS)
    expected = torch.linalg.svdvals(ROWS)[-1] * (float64(USERS) / 3.5) @ (left @ right)
    assert_close(combined(AlignedMTL(), ROWS, USERS), expected)


# Settings and particular cases


def test_mgda_divides_by_magnitudes_and_never_by_zero() -> None:
    rows = torch.diag(float64([1.0, 2.0]))
    positive = MGDA("loss")(scaled_statistics(rows, losses=[0.5, 4.0]))  # rows with norms 2 and 1/2
    assert_close(positive, float64([0.25 / 0.5, 4.0 / 4.0]) / 4.25)
    assert_close(MGDA("loss")(scaled_statistics(rows, losses=[-0.5, 4.0])), positive)
    zero = MGDA("loss", floor=0.01)(scaled_statistics(rows, losses=[0.0, 4.0]))
    assert_close(zero, MGDA("loss")(scaled_statistics(rows, losses=[0.01, 4.0])))


@pytest.mark.parametrize("direction", [IMTLG(), MGDA()])
def test_a_duplicate_changes_nothing(direction: Direction) -> None:
    rows = rows_of(3, 10, seed=12)
    assert_close(combined(direction, rows[[0, 1, 2, 1]]), combined(direction, rows), rtol=1e-6, atol=1e-9)


def test_imtl_g_where_the_published_solution_opposes_every_loss() -> None:
    """Three similar rows, the short one nearly between the others: its weight is negative and dominates the sum."""
    angles = torch.linspace(-0.3, 0.3, 3, dtype=torch.float64)
    unit = normalize(torch.stack([torch.cos(angles), torch.sin(angles), 0.03 * angles**2], dim=1))
    rows = unit * float64([1.0, 1e-3, 1.0])[:, None]
    published = torch.linalg.solve(rows @ rows.T, rows.norm(dim=1))
    assert (rows @ (published / published.sum() @ rows)).max() < 0
    d = combined(IMTLG(), rows)
    assert (unit @ d).min() > 0
    assert IMTLG()(scaled_statistics(rows)).sum() == pytest.approx(1)
    assert_close(normalize(d, dim=0), normalize(combined(MGDA(), rows), dim=0))


def test_imtl_g_uses_negative_weights_up_to_its_limit() -> None:
    angles = torch.linspace(-0.3, 0.3, 3, dtype=torch.float64)
    rows = normalize(torch.stack([torch.cos(angles), torch.sin(angles), 0.1 * angles**2], dim=1))
    assert IMTLG(limit=1e6)(scaled_statistics(rows)).min() < -1
    assert IMTLG(limit=1.0)(scaled_statistics(rows)).min() >= 0


def test_cagrad_with_radius_zero_is_the_mean() -> None:
    rows = rows_of(6, 4, seed=13)
    assert_close(combined(CAGrad(0.0), rows), rows.mean(0))


def test_cagrad_stays_near_the_mean_if_no_progress_is_possible() -> None:
    """A nearly opposed pair: the published formula would amplify the small component that is not opposed."""
    rows = torch.tensor([[1.0, 0.0, 0.0], [-0.9, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert_close(combined(CAGrad(), rows), float64([0.0, 0.0, 1 / 3]), atol=1e-9, rtol=0)
    nearly = rows + torch.tensor([[0.0, 1e-5, 0.0]], dtype=torch.float64)
    assert_close(combined(CAGrad(), nearly), float64([0.0, 0.0, 1 / 3]), atol=1e-4, rtol=0)
    progress = rows + torch.tensor([[0.0, 1e-2, 0.0]], dtype=torch.float64)
    assert (progress @ combined(CAGrad(), progress)).min() > 1e-4


def test_upgrad_projects_each_gradient_and_dualproj_their_mean() -> None:
    rows = pair(-0.5) * float64([1.0, 10.0])[:, None]
    assert_close(rows[0] @ combined(DualProj(), rows), float64([0.0]).squeeze(), atol=1e-9, rtol=0)
    assert rows[0] @ combined(UPGrad(), rows) > 0.1


@pytest.mark.parametrize(
    ("direction", "settings", "message"),
    [
        (MGDA, {"normalizer": "max"}, "normalizer must be one of none, l2, loss, loss"),
        (MGDA, {"floor": 0.0}, r"floor must be in \(0, inf\), got 0.0"),
        (CAGrad, {"c": 1.0}, r"c must be in \[0, 1\), got 1.0"),
        (CAGrad, {"c": -0.1}, "got -0.1"),
        (IMTLG, {"limit": 0.5}, r"limit must be in \[1, inf\), got 0.5"),
        (NashMTL, {"max_norm": 0.0}, r"max_norm must be in \(0, inf\), got 0.0"),
        (FairGrad, {"alpha": 0.1}, r"alpha must be in \[0.5, 4\], got 0.1"),
        (AlignedMTL, {"scale_mode": "max"}, "scale_mode must be one of min, median, rmse, got 'max'"),
    ],
)
def test_settings_out_of_range_are_errors(
    direction: Callable[..., Direction], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        direction(**settings)


@pytest.mark.parametrize("name", ["mgda", "cagrad", "imtl_g", "nash_mtl", "fairgrad", "aligned_mtl"])
def test_the_config_states_the_defaults(name: str) -> None:
    config = OmegaConf.load(CONFIGS / "direction" / f"{name}.yaml")
    assert config.pop("_target_") == f"balancer.{type(EVERY[name]).__name__}"
    defaults = {key: value.default for key, value in inspect.signature(type(EVERY[name])).parameters.items()}
    assert config == defaults


def test_upgrad_with_norms_that_differ_by_a_factor_of_ten_thousand() -> None:
    """A regulariser relative to the longest row would give the mean, which opposes the second gradient."""
    rows = torch.tensor([[100.0, 0.0], [-0.01, 0.01], [0.0, 0.01]], dtype=torch.float64)
    assert rows[1] @ rows.mean(0) < -0.1
    assert (normalize(rows) @ combined(UPGrad(), rows)).min() > -1e-9
