"""The demo runs, says what it promises, and writes its files."""

import warnings

import matplotlib
import pytest

from probgen import demo


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    backend = matplotlib.get_backend()
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *parts: lines.extend(" ".join(parts).split("\n")))
        demo.main(["--out", str(out)])
    assert matplotlib.get_backend() == backend
    return out, lines


def test_it_says_what_it_promises(ran):
    _, lines = ran
    text = "\n".join(lines)
    for promised in ("converged", "held-out row", "ten oddest rows", "but new", "p(mass > 4500 g)",
                     "fit for density", "fit for intervals"):  # fmt: skip
        assert promised in text
    gain = next(line for line in lines if line.strip().startswith("gain"))
    assert 3 < float(gain.split()[1]) < 6  # nats a row over independent columns
    start = lines.index("The ten oddest rows, and the cells to blame") + 3
    assert all("." in line for line in lines[start : start + 10])
    assert lines[start + 10].strip().startswith("surprisal:")


def test_it_fits_a_terminal(ran):
    _, lines = ran
    assert max(map(len, lines)) <= 120


def test_it_writes_plots_and_the_arviz_file(ran):
    out, _ = ran
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {
        "loss.png", "marginals.png", "pairs.png", "surprisal.png", "waterfall.png",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz as az
    data = az.from_netcdf(out / "model.nc")
    assert data["posterior"].sizes["chain"] == 2
    assert data["log_likelihood"]["log_prob"].shape[-1] == 258
