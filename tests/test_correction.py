"""The rest of a forecast of times: against a machine whose law is known, against leaving one out by hand, and where there is nothing to learn."""

import itertools

import numpy as np
import pytest

from autoslim.correction import FEWEST, KERNEL, STRENGTHS, TURN, learned, terms

L = 6
WHOLE = np.array([1.0, 0.5, 2.0, 1.0, 1.5, 0.5])


def machine(generator, n):
    """(terms, forecast, measured) of a made-up device: integer kernels win unlike much per layer, conversions cost a tenth of a layer's time."""
    time = generator.uniform(0.2, 1.0, (n, L))
    integer = generator.integers(0, 2, (n, L)).astype(float)
    alive = generator.random((n, L)) > 0.2
    time = time * alive
    true = np.array([1.4, 0.7, 1.0, 1.2, 0.8, 1.1]) * integer + np.array([1.0, 1.2, 0.9, 1.0, 1.3, 0.8]) * (1 - integer)
    turns = [
        sum(0.1 * WHOLE[b] for a, b in itertools.pairwise(np.flatnonzero(there)) if row[a] != row[b]) for row, there in zip(integer, alive)
    ]
    return terms(time, integer, alive, WHOLE), 0.5 + time.sum(1), 0.5 + (time * true).sum(1) + np.array(turns)


def test_a_known_law_is_found_again():
    found, plain, real = machine(np.random.default_rng(0), 60)
    made = learned(found[:40], plain[:40], real[:40])
    before, after = (np.abs(guess[40:] / real[40:] - 1).mean() for guess in (plain, plain + made.of(found)))
    assert after < 0.02 < 0.05 < before


def test_conversions_count_from_one_remaining_layer_to_the_next():
    integer, alive = np.array([[1.0, 0, 1, 1, 0, 0]]), np.array([[True, False, True, True, True, True]])
    found = terms(np.ones((1, L)), integer, alive, WHOLE)[0]
    assert found[2 * L : 3 * L].tolist() == [0, 0, 0, 0, TURN * 1.5, 0]  # the layer after the removed one is integer as the one before
    assert found[-1] == pytest.approx(KERNEL * WHOLE.sum() * 5)


def test_leave_one_out_error_is_that_of_leaving_one_out():
    found, plain, real = machine(np.random.default_rng(1), 12)
    strength = 0.3
    made = learned(found, plain, real, (strength,))
    errors = []
    for out in range(12):
        keep = np.arange(12) != out
        rows, rest = found[keep] / real[keep, None], (real[keep] - plain[keep]) / real[keep]
        weights = np.linalg.solve(rows.T @ rows + strength * np.eye(rows.shape[1]), rows.T @ rest)
        errors.append(abs((real[out] - plain[out] - found[out] @ weights) / real[out]))
    assert made.error == pytest.approx(np.mean(errors))


def test_noise_alone_is_not_learnt_and_few_are_not_enough():
    generator = np.random.default_rng(2)
    found, plain, real = machine(generator, 40)
    assert learned(found[: FEWEST - 1], plain[: FEWEST - 1], real[: FEWEST - 1]) is None
    noise = plain * np.exp(0.1 * generator.standard_normal(40))
    made = learned(found, plain, noise)
    assert made is None or made.strength == max(STRENGTHS)
