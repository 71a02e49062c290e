"""The plane in which all scores are exact: the world by hand and against autograd, and what the methods do in it."""

import math
import subprocess
import sys
from pathlib import Path

import plane
import plane_world as world
import pytest
import torch
from PIL import Image

from ddspo.maths.paths import DDPM

ROOT = Path(__file__).parents[1]
HALF_WAY = DDPM(torch.tensor([0.64], dtype=torch.float64))
"""alpha = .8 and sigma = .6."""


def prompts(count: int) -> torch.Tensor:
    return world.PROMPTS.repeat_interleave(count, 0)


@pytest.mark.parametrize("cells", [world.meant, world.believed, world.believed_degraded])
def test_the_noise_is_the_gradient_of_the_log_density(cells) -> None:
    """E[eps | x_t] = -sigma_t grad log p_t(x_t), float64, at any time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 2, generator=generator, dtype=torch.float64).requires_grad_()
    t = torch.randint(1000, (90,), generator=generator)
    mixture = cells(prompts(10))
    (gradient,) = torch.autograd.grad(world.log_density(x, mixture, t).sum(), x)
    expected = -world.PATH.coefficients(t)[1][:, None] * gradient
    torch.testing.assert_close(world.noise_within(x, mixture, t), expected, rtol=1e-10, atol=1e-10)


def test_a_noised_ring_by_hand() -> None:
    """Noised, the cell of the centre (1, -1) is a ring around (.8, -.8) of radius .8 x .25 = .2.

    Its Gaussians have variance .64 x .07^2 + .36 = .363136. From its middle all eight are .2 away, so that
    log p = -.2^2 / (2 x .363136) - log(2 pi x .363136) = -.055076 - .824900, and no direction is preferred.
    """
    x, t = torch.tensor([[0.8, -0.8]], dtype=torch.float64), torch.tensor([0])
    cells = world.meant(torch.tensor([[2, 0]]))
    assert world.log_density(x, cells, t, HALF_WAY).item() == pytest.approx(-0.879976, abs=2e-6)
    torch.testing.assert_close(world.noise_within(x, cells, t, HALF_WAY), torch.zeros_like(x))


def test_pure_noise_by_hand() -> None:
    """alpha = 0: log p = -|x|^2 / 2 - log(2 pi), and all of x is noise."""
    nothing = DDPM(torch.zeros(1, dtype=torch.float64))
    x, t = torch.tensor([[0.6, 0.8]], dtype=torch.float64), torch.tensor([0])
    cells = world.believed(torch.tensor([[1, 3]]))
    assert world.log_density(x, cells, t, nothing).item() == pytest.approx(-0.5 - math.log(math.tau))
    torch.testing.assert_close(world.noise_within(x, cells, t, nothing), x)


def test_what_policies_believe_by_hand() -> None:
    """.8 x .8 and .8 x .1 with both words, .8 / 3 with one; of half swapped pairs winner and loser are the same."""
    prompt = torch.tensor([[0, 2]])
    believed, degraded = world.believed(prompt)[0], world.believed_degraded(prompt)[0]
    assert [believed[2].item(), believed[1].item(), believed[3].item()] == pytest.approx([0.64, 0.08, 0.01])
    assert degraded[2].item() == pytest.approx(0.8 / 3)
    assert [believed.sum().item(), degraded.sum().item()] == pytest.approx([1, 1])
    clean, half = world.Frozen(), world.Frozen(swapped=0.5)
    torch.testing.assert_close(clean.cells(prompt, "winner")[0], believed)
    torch.testing.assert_close(clean.cells(prompt, "loser")[0], degraded)
    torch.testing.assert_close(half.cells(prompt, "winner"), half.cells(prompt, "loser"))


def test_judge() -> None:
    """The truth is accurate but for its thinnest thousandth and has no distance; another cell has all of it wrong.

    A cell to the right: E|x - y| is nearly 1, and E|x - x'| = E|y - y'| nearly that of a ring of radius .25,
    4 x .25 / pi = .32, a little more with its width: 2 x 1 - 2 x .32 = 1.36, within .05.
    """
    truth = world.draw(world.meant(prompts(500)), torch.Generator().manual_seed(1))
    accuracy, energy = world.judge(truth)
    assert accuracy == pytest.approx(0.999, abs=0.002)
    assert energy == pytest.approx(0, abs=0.005)
    accuracy, energy = world.judge(truth + torch.tensor([1.0, 0.0]))
    assert accuracy == 0
    assert energy == pytest.approx(1.36, abs=0.05)


def test_the_student_starts_as_the_reference_and_samples_what_that_believes() -> None:
    """.64 of the samples are in the right cell, with a standard error below sqrt(.64 x .36 / 1152) = .014."""
    student, reference = world.Student(), world.Frozen()
    samples = plane.samples_of(student, 128)
    torch.testing.assert_close(samples, plane.samples_of(reference, 128), rtol=0, atol=0)
    assert world.judge(samples)[0] == pytest.approx(0.64, abs=0.03)


def test_pairs_share_time_and_noise_and_half_are_swapped() -> None:
    """As many winners as losers are in the right cell of swapped pairs, (.64 + .27) / 2; standard error .008."""
    generator = torch.Generator().manual_seed(0)
    for method, shares in ((plane.TF, (0.64, 0.267)), (plane.METHODS["TF-CPP, half swapped"], (0.453, 0.453))):
        drawn = plane.Pairs.drawn(method, generator)
        found = [world.accurate(side, drawn.prompt).double().mean().item() for side in drawn.x0]
        assert found == pytest.approx(shares, abs=0.03)
        assert ((drawn.degraded == world.DROPPED).sum(1) == 1).all()
        view = drawn.view(torch.arange(4), generator)
        assert view.noise.win is view.noise.lose
        torch.testing.assert_close(view.x_t.lose, world.PATH.noise(view.x0.lose, view.noise.win, view.t))


@pytest.mark.parametrize("name", plane.METHODS)
def test_every_method_makes_sense(name: str) -> None:
    method = plane.METHODS[name]
    assert method.objective.refuses(method.policy_pair) is None
    assert set(plane.CLAIM) <= set(plane.METHODS)


def test_the_claim(tmp_path: Path) -> None:
    """TF-CPP has an accuracy of .79 to .84 over ten seeds, with half of the labels wrong .74 to .83.

    Diffusion-DPO has .76 to .83. With half of the labels wrong its expected gradient is zero, and it stays at the
    reference's .64.
    """
    script, out = ROOT / "examples" / "plane.py", tmp_path / "new" / "plane.png"
    arguments = [sys.executable, str(script), "--quick", str(out)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    found = {
        name: (float(accuracy), float(energy)) for name, accuracy, energy in rows if name[:2] in ("TF", "Di", "re")
    }
    start, start_energy = found.pop("reference, the winner")
    for name, (accuracy, energy) in found.items():
        if name == "Diffusion-DPO, half swapped":
            assert abs(accuracy - start) < 0.04
            assert energy > 0.8 * start_energy
        else:
            assert accuracy > start + 0.06
            assert energy < start_energy / 2
    assert len(found) == 4
    with Image.open(out) as image:
        assert image.size == (800, 420)
