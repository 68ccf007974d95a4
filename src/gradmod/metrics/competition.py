"""Competition strength: how much of what a modality could have learnt cannot be read from the jointly trained feature.

Source: Li et al., ICCV 2023 (arXiv 2308.07686), section 4. The mono-modal concept of modality m is what a model trained
on it alone has learnt; a linear predictor reads it from the joint model's feature before the head.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
DEFAULT_PENALTY = 120.0
"""Of the ridge regression, as published."""


def competition_strength(
    fit_features: Floats,
    fit_concept: Floats,
    eval_features: Floats,
    eval_concept: Floats,
    penalty: float = DEFAULT_PENALTY,
) -> float:
    """Competition strength d^m of one modality.

        E = prediction - concept  on the evaluation split,  B = N * cov(concept),  d = trace((E pinv(B))^T E) / C

    Args:
        fit_features: [n, F] joint features of the predictor split.
        fit_concept: [n, C] the concept's outputs there.
        eval_features: [N, F] joint features of the evaluation split.
        eval_concept: [N, C] the concept's outputs there.
        penalty: of the ridge regression (with an intercept, which is not penalised).

    Returns:
        0: the concept can be read linearly from the joint feature, no competition. 1: the prediction is no better than
        the concept's mean. Above 1: worse than that.

    Raises:
        ValueError: shapes that do not go together, fewer than 2 samples, values that are not finite, or a concept that
            is constant on the evaluation split.
    """
    arrays = {"fit_features": fit_features, "fit_concept": fit_concept}
    arrays |= {"eval_features": eval_features, "eval_concept": eval_concept}
    wide = {name: np.asarray(values, dtype=np.float64) for name, values in arrays.items()}
    _check(wide)
    weights, intercept = ridge(wide["fit_features"], wide["fit_concept"], penalty)
    concept = wide["eval_concept"]
    error = wide["eval_features"] @ weights + intercept - concept
    spread = len(concept) * np.atleast_2d(np.cov(concept, rowvar=False))
    if not np.trace(spread) > 0:
        raise ValueError(
            "the concept's output is the same for every sample of the evaluation split; there is nothing to read: was "
            "the mono-modal model trained?"
        )
    inverse = np.linalg.pinv(spread)
    return float(np.einsum("nc,cd,nd->", error, inverse, error) / concept.shape[1])


def ridge(features: Floats, targets: Floats, penalty: float) -> tuple[Floats, Floats]:
    """Ridge regression in closed form: weights [F, C] and intercept [C].

    They minimise || features @ weights + intercept - targets ||^2 + penalty * || weights ||^2. Whichever of the two
    equal systems is smaller is solved, F x F or n x n.

    Raises:
        ValueError: a penalty below 0.
    """
    if penalty < 0:
        raise ValueError(f"penalty is {penalty}; expected a number >= 0")
    centre, mean = features.mean(0), targets.mean(0)
    x, y = features - centre, targets - mean
    if x.shape[1] <= x.shape[0]:
        gram = x.T @ x + penalty * np.eye(x.shape[1])
        weights = _solve(gram, x.T @ y)
    else:
        weights = x.T @ _solve(x @ x.T + penalty * np.eye(x.shape[0]), y)
    return weights, mean - centre @ weights


def _solve(matrix: Floats, right: Floats) -> Floats:
    """Solution, the shortest one where the matrix is singular (no penalty and features that depend on each other)."""
    try:
        return np.asarray(np.linalg.solve(matrix, right))
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.pinv(matrix, hermitian=True) @ right)


def _check(arrays: dict[str, npt.NDArray[np.float64]]) -> None:
    for name, values in arrays.items():
        if values.ndim != 2 or len(values) < 2:
            raise ValueError(
                f"{name} has shape {list(values.shape)}; expected [samples, size] with 2 samples or more"
            )
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name} holds values that are not finite in row {int(np.argwhere(~np.isfinite(values))[0][0])}"
            )
    shapes = {name: list(values.shape) for name, values in arrays.items()}
    for part in ("fit", "eval"):
        if len(arrays[f"{part}_features"]) != len(arrays[f"{part}_concept"]):
            raise ValueError(
                f"{part}_features and {part}_concept differ in their number of samples: {shapes}"
            )
    for kind in ("features", "concept"):
        if arrays[f"fit_{kind}"].shape[1] != arrays[f"eval_{kind}"].shape[1]:
            raise ValueError(f"fit_{kind} and eval_{kind} differ in size: {shapes}")
