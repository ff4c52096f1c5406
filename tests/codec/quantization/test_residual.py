"""The residual quantizer against NumPy, brute force and encodec; two known defects of encodec and audiocraft."""

import itertools
import math

import numpy as np
import pytest
import torch
from encodec.quantization.core_vq import EuclideanCodebook, ResidualVectorQuantization
from torch import Tensor

from codec.quantization.kmeans import kmeans
from codec.quantization.residual import QuantizerOutput, ResidualVectorQuantizer


def as_latent(vectors: Tensor) -> Tensor:
    """[N, D] -> [1, D, N]."""
    return vectors.t()[None]


def distances(one: Tensor, other: Tensor) -> Tensor:
    """Euclidean distances [N, M], without the matrix product that has an error of 1e-3 for equal vectors."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def snapshot(quantizer: ResidualVectorQuantizer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}


def assert_same_state(quantizer: ResidualVectorQuantizer, state: dict[str, Tensor]) -> None:
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def initialized(vectors: Tensor, codebooks: int, size: int, **settings: float) -> ResidualVectorQuantizer:
    quantizer = ResidualVectorQuantizer(
        latent_dim=vectors.shape[1], num_codebooks=codebooks, codebook_size=size, **settings
    )
    quantizer.initialize(vectors)
    return quantizer


# First defect of encodec and audiocraft: an update right after k-means shrinks the codes


def change_by_one_update(quantizer: ResidualVectorQuantizer, vectors: Tensor) -> tuple[float, float]:
    """Relative change of the codes, and the ratio of mean squared errors after and before."""
    before = quantizer.embed.clone()
    output = quantizer(as_latent(vectors))
    quantizer.update(output)
    error = quantizer(as_latent(vectors)).commitment[-1] / output.commitment[-1]
    return ((quantizer.embed - before).norm() / before.norm()).item(), error.item()


def test_an_update_on_the_batch_of_kmeans_keeps_the_codes() -> None:
    vectors = torch.randn(2048, 8)
    quantizer = initialized(vectors, 3, 64, kmeans_iterations=1000, dead_code_threshold=0.0)
    change, error = change_by_one_update(quantizer, vectors)
    assert change < 1e-3  # rounding, and vectors that were centroids of their own
    assert error == pytest.approx(1, abs=1e-3)
    # The default iterations stop before convergence: one update then moves the codes a little.
    change, error = change_by_one_update(initialized(vectors, 3, 64, dead_code_threshold=0.0), vectors)
    assert change < 0.01
    assert error < 1.01


def test_the_initialization_of_encodec_fails_that_check() -> None:
    vectors = torch.randn(2048, 8)
    quantizer = initialized(vectors, 1, 64, dead_code_threshold=0.0)
    quantizer.embed_sum.copy_(quantizer.embed)  # the bare centroids beside the counts
    change, error = change_by_one_update(quantizer, vectors)
    assert change > 0.9
    assert error > 2
    # The original does, too: in a simulation of this setting its error grows from 0.39 to 0.92.
    original = EuclideanCodebook(8, 64, kmeans_init=True, kmeans_iters=50, threshold_ema_dead_code=0).train()
    first = (original(vectors)[0] - vectors).square().mean()  # initialises, quantizes, then updates
    second = (original.eval()(vectors)[0] - vectors).square().mean()
    assert first == pytest.approx(0.39, abs=0.02)
    assert second == pytest.approx(0.92, abs=0.03)


@torch.no_grad()
def test_an_initialization_from_many_batches_weighs_as_one_batch() -> None:
    """One batch moves a code by 1 - decay of the way to its mean, as in any later update."""
    vectors = torch.randn(8 * 256, 8)
    quantizer = ResidualVectorQuantizer(
        latent_dim=8, num_codebooks=1, codebook_size=16, decay=0.9, dead_code_threshold=0.0
    )
    quantizer.initialize(vectors, num_batches=8)
    alike = initialized(vectors, 1, 16, decay=0.9, dead_code_threshold=0.0)
    assert torch.equal(quantizer.embed, alike.embed)
    torch.testing.assert_close(quantizer.cluster_size, alike.cluster_size / 8)
    batch = vectors[:256] + 1
    before, old = quantizer.embed[0].clone(), quantizer.cluster_size[0].clone()
    output = quantizer(as_latent(batch))
    quantizer.update(output)
    counts = torch.bincount(output.codes.flatten(), minlength=16).float()
    sums = torch.zeros(16, 8).index_add_(0, output.codes.flatten(), batch)
    expected = (0.9 * old[:, None] * before + 0.1 * sums) / (0.9 * old + 0.1 * counts)[:, None]
    torch.testing.assert_close(quantizer.embed[0], expected)
    torch.testing.assert_close(quantizer.cluster_size.sum(), torch.tensor(256.0))


# Second defect: a replaced code is overwritten from stale averages before it is used


@torch.no_grad()
def test_replaced_codes_are_used_on_the_next_batch() -> None:
    vectors = torch.randn(2048, 8)
    quantizer = initialized(vectors, 2, 64)
    dead = [5, 6, 63]
    for tensor, value in ((quantizer.embed, 1e3), (quantizer.embed_sum, 0.0), (quantizer.cluster_size, 0.0)):
        tensor[0, dead] = value
    output = quantizer(as_latent(vectors))
    assert not np.isin(dead, output.codes[0, 0]).any()
    quantizer.update(output)
    replaced = quantizer.embed[0, dead]
    distance = distances(replaced, vectors)
    assert distance.min(1).values.max() < 1e-5, "a replaced code is a vector of the batch"
    assert len(set(distance.argmin(1).tolist())) == 3, "each is a different vector"
    for batch in (vectors, vectors + 0.01 * torch.randn(2048, 8)):
        assert np.isin(dead, quantizer(as_latent(batch)).codes[0, 0]).all()
    average = quantizer.cluster_size[0, dead]
    torch.testing.assert_close(quantizer.embed_sum[0, dead] / average[:, None], replaced)
    assert not quantizer.usage().dead_fraction[0] > 0


@torch.no_grad()
def test_the_replacement_of_encodec_fails_that_check() -> None:
    vectors = torch.randn(2048, 8)
    original = EuclideanCodebook(8, 64, kmeans_init=True, threshold_ema_dead_code=2).train()
    original(vectors)
    ours = initialized(vectors, 1, 64)
    # Correct averages, so that only the replacement differs; then one code dies.
    original.embed.copy_(ours.embed[0])
    original.cluster_size.copy_(ours.cluster_size[0])
    original.embed_avg.copy_(ours.embed_sum[0])
    original.embed[5], original.embed_avg[5], original.cluster_size[5] = 1e3, 1e3, 1.0
    for _ in range(5):
        assert 5 not in original(vectors)[1]


@torch.no_grad()
def test_more_dead_codes_than_vectors_take_each_vector_once() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=4, num_codebooks=1, codebook_size=64, dead_code_threshold=0.5)
    quantizer.cluster_size[0, 3:] = 0.0
    batch = 5 * torch.eye(4)
    quantizer.update(quantizer(as_latent(batch)))
    assert (distances(quantizer.embed[0], batch) < 1e-5).sum(0).tolist() == [1] * 4


@torch.no_grad()
def test_a_threshold_of_zero_replaces_nothing() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=4, num_codebooks=1, codebook_size=8, dead_code_threshold=0.0)
    quantizer.cluster_size[0, 5] = 0.0
    quantizer.embed_sum[0, 5] = 0.0
    quantizer.embed[0, 5] = 1e3
    for _ in range(3):
        quantizer.update(quantizer(torch.randn(1, 4, 50)))
    assert (quantizer.embed[0, 5] == 1e3).all()
    assert quantizer.usage().dead_fraction.item() == 0


@torch.no_grad()
def test_a_code_that_is_never_used_keeps_its_value() -> None:
    quantizer = ResidualVectorQuantizer(
        latent_dim=4, num_codebooks=1, codebook_size=8, dead_code_threshold=0.0, decay=0.5
    )
    quantizer.embed[0, 5] = 100.0
    quantizer.embed_sum[0, 5] = 100.0
    for _ in range(200):  # both averages fall below the smallest float32
        quantizer.update(quantizer(torch.randn(1, 4, 50)))
    torch.testing.assert_close(quantizer.embed[0, 5], torch.full((4,), 100.0))
    assert quantizer.embed.isfinite().all()


# Gradients


def test_every_codebook_has_its_own_commitment_gradient() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=6, num_codebooks=4, codebook_size=16)
    latent = torch.randn(2, 6, 5, requires_grad=True)
    output = quantizer(latent)
    for k in range(4):
        (gradient,) = torch.autograd.grad(output.commitment[k], latent, retain_graph=True)
        # d/dx mean (r - c)^2 = 2 (r - c) / (N D), r = x - (the codes before).
        left_over = latent.detach() - quantizer.decode(output.codes[:, : k + 1])
        torch.testing.assert_close(gradient, 2 * left_over / left_over.numel(), rtol=1e-4, atol=1e-6)
        assert output.commitment[k].item() == pytest.approx(left_over.square().mean().item(), rel=1e-4)


def test_encodec_has_a_commitment_gradient_for_its_first_codebook_only() -> None:
    original = ResidualVectorQuantization(
        num_quantizers=3, dim=6, codebook_size=16, kmeans_init=False, threshold_ema_dead_code=0
    ).train()
    latent = torch.randn(2, 6, 5, requires_grad=True)
    losses = original(latent)[2]
    gradients = [torch.autograd.grad(loss.sum(), latent, retain_graph=True)[0].abs().max().item() for loss in losses]
    assert gradients[0] > 1e-3
    assert gradients[1:] == [0, 0]


def test_the_straight_through_gradient_is_the_identity() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=6, num_codebooks=4, codebook_size=16)
    latent = torch.randn(2, 6, 5, requires_grad=True)
    upstream = torch.randn(2, 6, 5)
    (gradient,) = torch.autograd.grad(quantizer(latent).latent, latent, upstream)
    assert torch.equal(gradient, upstream)


# Values


@torch.no_grad()
def test_each_codebook_takes_the_nearest_code() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=6, num_codebooks=3, codebook_size=16)
    output = quantizer(torch.randn(2, 6, 50))
    assert output.codes.shape == (2, 3, 50)
    assert output.codes.dtype == torch.int64
    for k in range(3):
        residual, embed = output.residuals[k].double().numpy(), quantizer.embed[k].double().numpy()
        brute = np.linalg.norm(residual[:, None] - embed[None], axis=2).argmin(1)
        assert output.codes[:, k].flatten().tolist() == brute.tolist()


@torch.no_grad()
def test_the_quantized_latent_is_the_sum_of_the_codes() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=6, num_codebooks=4, codebook_size=16)
    latent = torch.randn(2, 6, 5)
    output = quantizer(latent)
    total = sum(quantizer.embed[k][output.codes[:, k]] for k in range(4))
    torch.testing.assert_close(output.latent, total.transpose(1, 2))
    torch.testing.assert_close(quantizer.decode(output.codes), output.latent)
    # Codebook k quantizes the residual of the codebooks before it.
    for k in range(4):
        given = latent - (quantizer.decode(output.codes[:, :k]) if k else 0)
        torch.testing.assert_close(output.residuals[k], given.transpose(1, 2).reshape(10, 6))


@torch.no_grad()
def test_fewer_codebooks_give_a_prefix() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=6, num_codebooks=4, codebook_size=16)
    latent = torch.randn(2, 6, 5)
    whole = quantizer(latent)
    for codebooks in (1, 3, 4):
        part = quantizer(latent, codebooks)
        assert torch.equal(part.codes, whole.codes[:, :codebooks])
        assert torch.equal(part.commitment, whole.commitment[:codebooks])
        assert torch.equal(part.residuals, whole.residuals[:codebooks])
        assert torch.equal(quantizer.encode(latent, codebooks), part.codes)
        torch.testing.assert_close(part.latent, quantizer.decode(whole.codes[:, :codebooks]))


def test_codes_of_too_many_codebooks_are_refused() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=6, num_codebooks=4, codebook_size=16)
    with pytest.raises(ValueError, match="at most 4 codebooks, got 5"):
        quantizer.decode(torch.zeros(1, 5, 3, dtype=torch.int64))


@torch.no_grad()
def test_distances_stay_in_float32_under_autocast() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=16, num_codebooks=2, codebook_size=256)
    latent = torch.randn(1, 16, 500)
    expected = quantizer(latent)
    with torch.autocast("cpu", torch.bfloat16):
        output = quantizer(latent)
        again = initialized(expected.residuals[0], 2, 64)
    assert torch.equal(output.codes, expected.codes)
    assert output.latent.dtype == output.commitment.dtype == output.residuals.dtype == torch.float32
    assert_same_state(again, snapshot(initialized(expected.residuals[0], 2, 64)))
    # The check can fail: bfloat16 gives other codes.
    half = distances(latent[0].t().bfloat16().float(), quantizer.embed[0].bfloat16().float()).argmin(1)
    assert not torch.equal(half, expected.codes[0, 0])


# Updates


def numpy_update(state: dict[str, np.ndarray], latent: np.ndarray, decay: float, count: int) -> dict[str, np.ndarray]:
    """The moving averages, vector by vector, in float64."""
    embed, size, total = (state[k].copy() for k in ("embed", "cluster_size", "embed_sum"))
    left = latent.transpose(0, 2, 1).reshape(-1, latent.shape[1]).copy()
    for k in range(count):
        counts, sums = np.zeros_like(size[k]), np.zeros_like(total[k])
        for n, vector in enumerate(left):
            code = ((vector - state["embed"][k]) ** 2).sum(1).argmin()
            counts[code] += 1
            sums[code] += vector
            left[n] = vector - state["embed"][k][code]
        size[k] = decay * size[k] + (1 - decay) * counts
        total[k] = decay * total[k] + (1 - decay) * sums
        embed[k] = total[k] / size[k][:, None]
    return {"embed": embed, "cluster_size": size, "embed_sum": total}


@pytest.mark.parametrize("codebooks", [1, 3])
def test_updates_equal_a_float64_loop(codebooks: int) -> None:
    quantizer = ResidualVectorQuantizer(
        latent_dim=4, num_codebooks=3, codebook_size=8, decay=0.9, dead_code_threshold=0.0
    )
    names = ("embed", "cluster_size", "embed_sum")
    expected = {name: getattr(quantizer, name).double().numpy() for name in names}
    for step in range(4):
        latent = torch.randn(2, 4, 9)
        quantizer.update(quantizer(latent, codebooks))
        expected = numpy_update(expected, latent.double().numpy(), 0.9, codebooks)
        assert quantizer.updates.item() == step + 1
        for name in names:
            np.testing.assert_allclose(getattr(quantizer, name).numpy(), expected[name], rtol=1e-4, atol=1e-5)


def test_an_update_does_not_change_codebooks_that_were_not_used() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=4, num_codebooks=3, codebook_size=8, dead_code_threshold=0.5)
    before = snapshot(quantizer)
    quantizer.update(quantizer(torch.randn(1, 4, 9), 2))
    for name in ("embed", "cluster_size", "embed_sum"):
        after = quantizer.get_buffer(name)
        assert torch.equal(after[2], before[name][2]), name
        assert not torch.equal(after[:2], before[name][:2]), name


@pytest.mark.parametrize("latent", [torch.ones(1, 4, 9), torch.full((1, 4, 9), math.nan)], ids=["finite", "nan"])
@pytest.mark.parametrize("training", [True, False])
def test_a_forward_pass_changes_no_buffer(latent: Tensor, training: bool) -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=4, num_codebooks=3, codebook_size=8).train(training)
    before = snapshot(quantizer)
    output = quantizer(latent)
    quantizer.encode(latent)
    quantizer.decode(output.codes)
    quantizer.usage()
    assert_same_state(quantizer, before)
    # Only the update writes, NaN included: the trainer must not call it after a non-finite step.
    quantizer.update(output)
    assert not torch.equal(quantizer.embed.nan_to_num(7), before["embed"])


def training_steps(quantizer: ResidualVectorQuantizer, first: int, last: int) -> list[QuantizerOutput]:
    outputs = []
    for step in range(first, last):
        batch = torch.randn(1, 4, 20, generator=torch.Generator().manual_seed(step)) + step
        outputs.append(quantizer(batch))
        quantizer.update(outputs[-1])
    return outputs


def test_a_restored_quantizer_continues_bit_identically() -> None:
    straight = ResidualVectorQuantizer(latent_dim=4, num_codebooks=3, codebook_size=32, decay=0.7)
    training_steps(straight, 0, 5)
    state = snapshot(straight)
    interrupted = ResidualVectorQuantizer(latent_dim=4, num_codebooks=3, codebook_size=32, decay=0.7)
    torch.randn(100)  # the restored process has another history of the global generator
    interrupted.load_state_dict(state)
    for ours, theirs in zip(training_steps(interrupted, 5, 9), training_steps(straight, 5, 9), strict=True):
        assert torch.equal(ours.latent, theirs.latent)
    assert_same_state(interrupted, snapshot(straight))
    # Codes were replaced: otherwise the codebooks would differ.
    without = ResidualVectorQuantizer(
        latent_dim=4, num_codebooks=3, codebook_size=32, decay=0.7, dead_code_threshold=0.0
    )
    without.load_state_dict(state)
    training_steps(without, 5, 9)
    assert not torch.equal(without.embed, straight.embed)


def test_replacements_of_later_updates_draw_other_vectors() -> None:
    def revive_at(updates: int) -> Tensor:
        quantizer = ResidualVectorQuantizer(latent_dim=4, num_codebooks=1, codebook_size=32)
        quantizer.cluster_size[0, :4] = 0.0
        quantizer.embed[0, :4] = 1e3
        quantizer.updates.fill_(updates)
        quantizer.update(quantizer(torch.randn(1, 4, 50, generator=torch.Generator().manual_seed(1))))
        return quantizer.embed[0, :4]

    assert torch.equal(revive_at(3), revive_at(3))
    assert not torch.equal(revive_at(3), revive_at(4))


def test_no_draw_advances_the_global_generator() -> None:
    before = torch.get_rng_state()
    vectors = torch.rand(100, 4, generator=torch.Generator().manual_seed(0))
    quantizer = initialized(vectors, 3, 32)
    quantizer.cluster_size[:, 0] = 0.0
    quantizer.update(quantizer(as_latent(vectors)))
    assert torch.equal(torch.get_rng_state(), before)


# Initialization by k-means


def test_kmeans_worked_example() -> None:
    vectors = torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.0]])
    centroids, counts, index = kmeans(vectors, 2, 20, torch.Generator().manual_seed(0))
    order = centroids.flatten().argsort()
    assert centroids.flatten()[order].tolist() == [0.5, 11.0]
    assert counts[order].tolist() == [2, 3]
    assert torch.equal(index[:2], order[[0, 0]])
    assert torch.equal(index[2:], order[[1, 1, 1]])


def test_kmeans_of_equal_vectors_keeps_the_empty_clusters_finite() -> None:
    centroids, counts, _ = kmeans(torch.ones(9, 3), 4, 20, torch.Generator().manual_seed(0))
    assert torch.equal(centroids, torch.ones(4, 3))
    assert counts.sort().values.tolist() == [0, 0, 0, 9]


def test_kmeans_is_a_fixed_point_of_lloyds_steps() -> None:
    vectors = torch.randn(300, 3)
    centroids, counts, index = kmeans(vectors, 7, 1000, torch.Generator().manual_seed(0))
    assert torch.equal(index, distances(vectors, centroids).argmin(1))
    for j in range(7):
        assert counts[j] == (index == j).sum()
        torch.testing.assert_close(centroids[j], vectors[index == j].mean(0))


@torch.no_grad()
def test_initialization_depends_on_the_seed_alone() -> None:
    vectors = torch.randn(200, 4)
    one, same, other = (ResidualVectorQuantizer(latent_dim=4, num_codebooks=2, codebook_size=16) for _ in range(3))
    assert not one.initialized
    one.initialize(vectors, seed=1)
    same.initialize(vectors, seed=1)
    other.initialize(vectors, seed=2)
    assert one.initialized
    assert_same_state(same, snapshot(one))
    assert not torch.equal(other.embed, one.embed)


def test_initialization_of_32_codebooks_on_300_vectors_leaves_a_residual_for_every_codebook() -> None:
    # Structured: one of 10 + one of 20 directions, and noise.
    coarse, fine = 3 * torch.randn(10, 128), torch.randn(20, 128)
    vectors = coarse[torch.arange(300) % 10] + fine[torch.arange(300) % 20] + 0.3 * torch.randn(300, 128)
    quantizer = initialized(vectors, 32, 1024)
    output = quantizer(as_latent(vectors))
    energy = [vectors.square().mean().item(), *output.commitment.tolist()]
    assert all(after < before for before, after in itertools.pairwise(energy))
    assert energy[1] < 0.2 * energy[0], "the first codebook finds the structure"
    # A centroid per vector would make codebook 1 exact and leave zeros for the others. Some centroids of single
    # vectors would do the same more slowly.
    assert min(len(codes.unique()) for codes in output.codes[0]) > 3
    # The copies that fill each codebook past its 300 / 4 centroids are never chosen.
    assert output.codes.max() < 75
    assert (quantizer.cluster_size[:, 75:] == 0).all()


@pytest.mark.parametrize("vectors", [1, 3, 5, 40])
def test_a_batch_smaller_than_the_codebook_initializes_and_updates(vectors: int) -> None:
    batch = torch.randn(vectors, 4)
    quantizer = initialized(batch, 3, 64)
    assert quantizer.cluster_size.sum(1).tolist() == [vectors] * 3
    first = quantizer(as_latent(batch)).commitment[-1]
    for _ in range(3):
        quantizer.update(quantizer(as_latent(batch)))
    assert quantizer.embed.isfinite().all()
    # Replaced codes are the vectors themselves, so the error of a constant batch vanishes.
    assert quantizer(as_latent(batch)).commitment[0] <= first + 1e-6
    assert quantizer(as_latent(batch)).commitment[0] < 1e-8


# Usage


@pytest.mark.parametrize(
    ("cluster_size", "perplexity", "dead_fraction", "bits"),
    [
        ([3.0] * 8, 8.0, 0.0, 3.0),
        ([5.0] + [0.0] * 7, 1.0, 7 / 8, 0.0),
        # Shares 1/2, 1/4, 1/4: 1.5 bits. The mean is 1, so the fifth, at 0.09, is dead and the sixth, at 0, too.
        ([4.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2**1.5, 5 / 8, 1.5),
        ([0.0] * 8, 1.0, 0.0, 0.0),
    ],
    ids=["uniform", "one_code", "worked", "empty"],
)
def test_usage_worked_examples(cluster_size: list[float], perplexity: float, dead_fraction: float, bits: float) -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=4, num_codebooks=2, codebook_size=8)
    quantizer.cluster_size.copy_(torch.tensor([cluster_size, [1.0] * 8]))
    usage = quantizer.usage()
    assert usage.perplexity.tolist() == pytest.approx([perplexity, 8], rel=1e-5)
    assert usage.dead_fraction.tolist() == pytest.approx([dead_fraction, 0])
    assert usage.bits.tolist() == pytest.approx([bits, 3], abs=1e-5)


def test_dead_codes_are_relative_to_uniform_usage() -> None:
    quantizer = ResidualVectorQuantizer(latent_dim=4, num_codebooks=1, codebook_size=4, dead_code_threshold=0.5)
    for scale in (1e-3, 1.0, 1e3):  # whatever the batch size
        quantizer.cluster_size[0] = scale * torch.tensor([2.0, 1.1, 0.51, 0.39])  # of a mean of 1
        assert quantizer.usage().dead_fraction.item() == 0.25


@pytest.mark.parametrize(
    "settings", [{"decay": 1.0}, {"decay": -0.1}, {"dead_code_threshold": 1.0}, {"dead_code_threshold": -0.1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=rf"{name} must be a number in \[0, 1\), got {settings[name]}"):
        ResidualVectorQuantizer(latent_dim=4, num_codebooks=2, codebook_size=8, **settings)


# Energy exponent


def test_quiet_latents_get_codes_where_the_relative_error_counts() -> None:
    """Lengths from 1 to 0.01: squared errors ignore the quietest quarter."""
    lengths = 10 ** (-2 * torch.linspace(0, 1, 4000)[:, None])
    vectors = torch.nn.functional.normalize(torch.randn(4000, 6), dim=1) * lengths
    relative_errors = []
    for exponent in (0.0, 1.0):
        quantizer = initialized(vectors, 1, 64, energy_exponent=exponent)
        error = vectors - quantizer(as_latent(vectors)).latent[0].t()
        relative_errors.append((error.square().sum(1) / lengths[:, 0] ** 2)[-1000:].mean().item())
    assert relative_errors[0] > 0.95
    assert relative_errors[1] < 0.7


@pytest.mark.parametrize(
    ("seed", "vectors", "clusters", "iterations"),
    [(3, 3000, 100, 1), (3, 3000, 100, 2), (3, 3000, 100, 25), (57, 30, 8, 20)],  # the last goes wrong by stale scores
)
def test_kmeans_equals_plain_lloyd_iterations(seed: int, vectors: int, clusters: int, iterations: int) -> None:
    """NumPy recomputes everything in each iteration."""
    points = torch.randn(vectors, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = torch.randperm(vectors, generator=torch.Generator().manual_seed(seed))
    expected = points.numpy()[order[:clusters]]
    for _ in range(iterations):
        cells = ((points.numpy()[:, None] - expected) ** 2).sum(2).argmin(1)
        expected = np.stack([points.numpy()[cells == k].mean(0) for k in range(clusters)])
    centroids, counts, index = kmeans(points, clusters, iterations, torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(centroids.numpy(), expected, atol=1e-12)
    assert torch.equal(index, distances(points, centroids).argmin(1))
    assert torch.equal(counts.long(), torch.bincount(index, minlength=clusters))


def test_weights_of_kmeans_equal_copies_of_a_vector() -> None:
    """Lloyd iterations in NumPy, over vectors repeated according to their weight."""
    vectors, often = torch.randn(300, 4), torch.randint(1, 5, (300,))
    first = vectors[torch.randperm(300, generator=torch.Generator().manual_seed(3))[:8]].double().numpy()
    repeated = vectors.double().numpy().repeat(often.numpy(), axis=0)
    for _ in range(4):
        nearest = ((repeated[:, None] - first) ** 2).sum(2).argmin(1)
        first = np.stack([repeated[nearest == k].mean(0) for k in range(8)])
    found, counts, index = kmeans(vectors, 8, 4, torch.Generator().manual_seed(3), often.float())
    np.testing.assert_allclose(found.numpy(), first, atol=1e-5)
    assert counts.sum() == 300, "counts are numbers of vectors, not sums of weights"
    assert torch.equal(torch.bincount(index, minlength=8), counts.long())


def test_kmeans_of_many_vectors_runs_on_a_sample_first() -> None:
    """4 clusters of 400 vectors in NumPy: 5 iterations on a sample of 256, then 2 on all."""
    vectors = torch.randn(400, 3)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    everything = vectors.double().numpy()
    found = everything[order[:4]]
    for part, steps in ((everything[order[:256]], 5), (everything, 2)):
        for _ in range(steps):
            cells = ((part[:, None] - found) ** 2).sum(2).argmin(1)
            found = np.stack([part[cells == k].mean(0) for k in range(4)])
    centroids, counts, index = kmeans(vectors, 4, 5, torch.Generator().manual_seed(3))
    np.testing.assert_allclose(centroids.numpy(), found, atol=1e-5)
    assert counts.sum() == 400
    assert torch.equal(index, distances(vectors, centroids).argmin(1))


def test_silence_initializes() -> None:
    quantizer = initialized(torch.zeros(100, 4), 2, 8, energy_exponent=1.0)
    assert quantizer.embed.isfinite().all()
    assert not quantizer.decode(quantizer.encode(torch.zeros(1, 4, 3))).any()


@pytest.mark.parametrize("exponent", [-0.5, float("nan"), float("inf")])
def test_an_energy_exponent_is_finite_and_not_negative(exponent: float) -> None:
    with pytest.raises(ValueError, match=rf"energy_exponent must be a number in \[0, inf\), got {exponent}"):
        ResidualVectorQuantizer(latent_dim=4, num_codebooks=2, codebook_size=8, energy_exponent=exponent)
