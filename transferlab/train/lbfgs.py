"""Many convex problems at once, by limited-memory BFGS (Nocedal and Wright 2006, alg. 7.4), on any device.

Problems lie side by side in one tensor w of shape (D, S, classes): S strengths, and classes, which are problems of
their own or share one. Nothing waits for the device but a look for strengths all of whose problems are
finished, every few iterations; these are left out from then on.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

HISTORY = 5  # pairs that are remembered
CHECK = 5  # iterations after which finished strengths are looked for, where looking means waiting for the device

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]


def side_by_side(solve: Callable[[Tensor], Tensor], strengths: Tensor, most: int) -> Tensor:
    """Solve for some strengths at a time.

    On a CPU with several threads each works on strengths of its own: threads that share every product and sum mostly
    wait for each other.

    Parameters
    ----------
    solve : callable
        From some of the strengths to their solutions, with these in dimension 1, too.
    strengths : Tensor
        Strengths in dimension 1.
    most : int
        How many may be worked on at once.
    """
    count, threads = strengths.shape[1], torch.get_num_threads()
    at_once = min(count, threads, max(1, most)) if strengths.device.type == "cpu" else 1
    parts = max(at_once, -(-count // max(1, most // at_once)))
    # weak and strong ones in each part
    order = [torch.arange(part, count, parts, device=strengths.device) for part in range(parts)]
    chosen = [strengths[:, index] for index in order]
    if at_once == 1:
        found = list(map(solve, chosen))
    else:
        try:
            with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(threads // at_once,)) as pool:
                found = list(pool.map(solve, chosen))
        finally:
            torch.set_num_threads(threads)  # what is set in one thread is what the next new one starts with
    return torch.cat(found, 1)[:, torch.cat(order).argsort()]


def minimise(objective: Evaluate, w: Tensor, penalty: Tensor, metric: Tensor, tolerance=3e-4, iterations=100) -> Tensor:
    """Minimise many smooth convex functions plus penalty / 2 * w^2 at once.

    Each problem has its own step: 1, shortened for its next iteration where it failed the approximate Wolfe conditions
    (Hager and Zhang 2005, sec. 1), by the secant rule. A problem is finished, and stays as it is, when the decrease
    that its step promises is small; none is before the memory is full, since the first promises are often wrong.

    Parameters
    ----------
    objective : callable
        From w, for any part of the strengths, to the value of each problem and the gradient, penalty not included.
        Values are of shape (1, S, classes), or (1, S, 1) where classes share a problem.
    w : Tensor, shape (D, S, classes)
        Where to start.
    penalty, metric : Tensor
        Diagonals, shapes (D, S, 1) and (D, S, classes or 1): of the penalty, and of the Hessian at the start.
    tolerance : float
        Promised decrease, as a part of the function's value, below which a problem is finished.
    iterations : int
        At most so many.

    Returns
    -------
    Tensor, shape (D, S, classes)
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum_to_size(value.shape)

    def evaluate(w: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = objective(w)
        pull = penalty * w
        return value + 0.5 * (pull * w).sum_to_size(value.shape), gradient.add_(pull)

    result, left = w.clone(), torch.arange(w.shape[1], device=w.device)
    value, gradient = evaluate(w)
    step = inverse = torch.ones_like(value)  # `inverse` scales the inverse of the metric
    busy = value >= 0  # all of them
    pairs: list[tuple[Tensor, ...]] = []  # change of w, change of gradient, 1 / their product
    for iteration in range(iterations):
        if iteration % CHECK == 0 or w.device.type == "cpu":
            keep = busy.any(2).any(0)
            if not keep.all():
                result[:, left] = w
                if not keep.any():
                    return result
                left = left[keep]
                parts = (w, value, gradient, penalty, metric, step, inverse, busy)
                w, value, gradient, penalty, metric, step, inverse, busy = (part[:, keep] for part in parts)
                pairs = [tuple(part[:, keep] for part in pair) for pair in pairs]
        direction, shares = -gradient, []
        for change, bend, rho in reversed(pairs):
            shares.append(rho * dot(change, direction))
            direction.addcmul_(shares[-1], bend, value=-1)
        direction.mul_(inverse).div_(metric)
        for (change, bend, rho), share in zip(pairs, reversed(shares), strict=True):
            direction.addcmul_(share - rho * dot(bend, direction), change)
        slope = dot(gradient, direction)
        busy = busy & ((-slope > 2 * tolerance * value) | (iteration < HISTORY))
        new_w = torch.addcmul(w, step, direction)
        new_value, new_gradient = evaluate(new_w)
        new_slope = dot(new_gradient, direction)
        good = busy & (new_slope <= -0.8 * slope) & (new_value <= value + 1e-6 * value.abs())
        change, bend = torch.where(good, new_w - w, 0), torch.where(good, new_gradient - gradient, 0)
        product = dot(change, bend)
        good = good & (product > 0)
        pairs = [*pairs[1 - HISTORY :], (change, bend, torch.where(good, 1 / product, 0))]
        inverse = torch.where(good, product / dot(bend, bend / metric), inverse)
        new, old = (new_w, new_value, new_gradient), (w, value, gradient)
        w, value, gradient = (torch.where(good, *each) for each in zip(new, old, strict=True))
        step = torch.where(good, 1, step * (slope / (slope - new_slope)).clamp(0.1, 0.5))
    result[:, left] = w
    return result
