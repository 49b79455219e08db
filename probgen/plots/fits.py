"""How a fit went."""

from __future__ import annotations

IMPORTS


def loss(model: Density, ax: Axes | None = None) -> Axes:
    """Loss of each epoch, one line a restart, with the score of held-out rows if there is one.

    Parameters
    ----------
    model : Density
    ax : Axes, optional

    Returns
    -------
    Axes
        Negative ELBO, nats a row, in encoded units.
    """
    ax = own_axes(ax)
    results = model.results_
    for number, result in enumerate(results):
        name = f"restart {number}" if len(results) > 1 else "training"
        colour = f"C{number}" if len(results) > 1 else DATA
        epochs = np.arange(1, len(result.losses) + 1)
        ax.plot(epochs, result.losses, color=colour, label=name, linewidth=1.6)
        if len(result.validation):
            held = np.arange(1, len(result.validation) + 1)
            ax.plot(held, result.validation, "--", color=colour, label=f"{name}, held out")
    ax.set(xlabel="epoch", ylabel="negative ELBO (nats a row, encoded units)")
    done = sum(result.converged for result in results)
    ax.set_title(_verdict(done, results), fontsize="medium", loc="left")
    if len(ax.get_lines()) > 1:
        ax.legend(frameon=False)
    return clean(ax)


def _verdict(done: int, results: Sequence[Any]) -> str:
    if len(results) > 1:
        return f"{done} of {len(results)} restarts converged"
    return f"{'converged' if done else 'not converged'}: {results[0].reason}"
