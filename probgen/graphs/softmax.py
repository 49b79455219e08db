"""Softmax regression of a discrete node on discrete and normal parents, by Newton steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probgen.graphs.nodes import NodeRows

__all__ = ["softmax_log_likelihood"]

Floats = NDArray[np.float64]

#: Ridge on the coefficients of standardised columns: separable classes have a finite optimum.
RIDGE = 1e-3
STEPS = 50


def softmax_log_likelihood(
    rows: NodeRows, node: int, parents: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """Maximised log-likelihood of a node by a softmax regression on its parents.

    Discrete parents enter as indicators of all states but the first, normal ones as they are.

    Parameters
    ----------
    rows : NodeRows
    node : int
        A discrete node.
    parents : tuple of int

    Returns
    -------
    found, empty : float
        Log-likelihood in nats with the parents, and without, on the rows that show all.
    free : float
        Coefficients besides the intercepts.
    weight : float
        Of these rows.
    """
    chosen = rows.codes[:, node] >= 0
    for p in parents:
        chosen &= rows.codes[:, p] >= 0 if rows.sizes[p] else ~np.isnan(rows.values[:, p])
    weight, size = rows.weight[chosen], rows.sizes[node]
    blocks = [np.ones((int(chosen.sum()), 1))]
    for p in parents:
        if rows.sizes[p]:
            blocks.append(rows.codes[chosen, p, None] == np.arange(1, rows.sizes[p]))
        else:
            blocks.append(rows.values[chosen, p, None])
    design = np.concatenate(blocks, axis=1).astype(float)
    target = (rows.codes[chosen, node, None] == np.arange(size)).astype(float)
    share = (weight @ target) / max(float(weight.sum()), 1e-300)
    empty = float(weight @ (target @ np.log(np.maximum(share, 1e-300)))) if len(weight) else 0.0
    found = _fit(design, target, weight) if len(weight) and size > 1 else empty
    return found, empty, float((design.shape[1] - 1) * (size - 1)), float(weight.sum())


def _fit(design: Floats, target: Floats, weight: Floats) -> float:
    """Log-likelihood at the optimum of the ridge-penalised likelihood."""
    width, size = design.shape[1], target.shape[1] - 1
    penalty = np.full((width, size), RIDGE)
    penalty[0] = 1e-9
    beta = np.zeros((width, size))
    best = _objective(design, target, weight, beta, penalty)
    for _ in range(STEPS):
        p = np.exp(_log_softmax(design @ beta))[:, 1:]
        slope = design.T @ (weight[:, None] * (target[:, 1:] - p)) - penalty * beta
        step = np.linalg.solve(_information(design, p, weight, penalty), slope.T.ravel())
        step = step.reshape(size, width).T
        scale = 1.0
        while scale > 1e-4:
            now = _objective(design, target, weight, beta + scale * step, penalty)
            if now >= best:
                break
            scale /= 2
        else:
            break
        beta, rise, best = beta + scale * step, now - best, now
        if rise < 1e-8 * (1 + abs(best)):
            break
    return float(weight @ (target * _log_softmax(design @ beta)).sum(1))


def _objective(
    design: Floats, target: Floats, weight: Floats, beta: Floats, penalty: Floats
) -> float:
    fitted = weight @ (target * _log_softmax(design @ beta)).sum(1)
    return float(fitted - 0.5 * (penalty * beta**2).sum())


def _log_softmax(logits: Floats) -> Floats:
    """Log probabilities of all states; the logit of the first state is 0."""
    whole = np.column_stack([np.zeros(len(logits)), logits])
    whole = whole - whole.max(1, keepdims=True)
    return np.asarray(whole - np.log(np.exp(whole).sum(1, keepdims=True)))


def _information(design: Floats, p: Floats, weight: Floats, penalty: Floats) -> Floats:
    """Negative Hessian, states by states of blocks over the columns of the design."""
    size, width = p.shape[1], design.shape[1]
    found = np.zeros((size * width, size * width))
    for a in range(size):
        for b in range(a, size):
            own = weight * p[:, a] * ((a == b) - p[:, b])
            block = design.T @ (own[:, None] * design)
            found[a * width : (a + 1) * width, b * width : (b + 1) * width] = block
            found[b * width : (b + 1) * width, a * width : (a + 1) * width] = block.T
    found[np.diag_indices(size * width)] += penalty.T.ravel()
    return found
