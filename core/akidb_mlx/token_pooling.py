"""A text's vectors that are much alike become one: Ward's clusters on 1 − dot, and their means. Pure NumPy.

The clusters are those of scipy's `linkage(…, "ward")` and `fcluster(…, criterion="maxclust")`, which
sentence-transformers' HierarchicalTokenPooling takes; Ward 1963, in the form of Lance and Williams 1967.
"""

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.multi_vectors import TokenVectors

__all__ = ["clusters", "pool_tokens"]

_LEAST = 1e-12  # torch's normalize divides by no less
Distances = NDArray[np.float64]


def pool_tokens(vectors: TokenVectors, factor: float, *, protected: int = 1, normalize: bool = True) -> TokenVectors:
    """(tokens, dimension) → the first `protected` vectors, then one for each cluster of the others.

    There are at most ⌊others / factor⌋ clusters, at least one, in the order of the tree that made them. With
    `normalize` all rows have unit length. `vectors` should have it too.
    """
    kept, rest = vectors[:protected], vectors[protected:]
    count = max(int(len(rest) // factor), 1)
    if count < len(rest):
        labels = clusters(np.clip(1 - rest @ rest.T, 0, 2), count)
        sums = np.zeros((labels.max() + 1, rest.shape[1]), rest.dtype)
        np.add.at(sums, labels, rest)
        means = sums / np.bincount(labels).astype(rest.dtype)[:, None]
        vectors = np.concatenate([kept, means])
    if not normalize:
        return vectors
    lengths: TokenVectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, _LEAST)


def clusters(distances: NDArray[np.floating], most: int) -> NDArray[np.int64]:
    """(n,) cluster of each of n things by (n, n) `distances`, at most `most` ones, counted from 0 along the tree."""
    pairs, heights = _tree(np.array(distances, np.float64))
    return _labels(pairs, _cut(heights, len(distances), most))


def _tree(distances: Distances) -> tuple[NDArray[np.int64], Distances]:
    """(n − 1, 2) what is merged, and (n − 1,) at which height, lowest first; merge i makes the thing n + i.

    A chain of nearest neighbours: each step goes on to the nearest thing, until two are each other's.
    """
    n = len(distances)
    np.fill_diagonal(distances, np.inf)
    sizes = np.ones(n)
    merged: list[tuple[int, int, float]] = []
    chain: list[int] = []
    while len(merged) < n - 1:
        if not chain:
            chain = [int(np.flatnonzero(sizes)[0])]
        while True:
            last = chain[-1]
            near = distances[last]
            best = int(near.argmin())
            # Of equally near ones the one that the chain came from, so that it ends.
            if len(chain) > 1 and near[chain[-2]] <= near[best]:
                best = chain[-2]
            if len(chain) > 1 and best == chain[-2]:
                break
            chain.append(best)
        first, second = sorted(chain[-2:])
        del chain[-2:]
        height = float(distances[first, second])
        merged.append((first, second, height))
        _merge(distances, sizes, first, second, height)
    order = np.argsort([height for *_, height in merged], kind="stable")
    return _named([merged[place] for place in order], n), np.array([merged[place][2] for place in order])


def _merge(distances: Distances, sizes: Distances, gone: int, stays: int, height: float) -> None:
    """Put two things together in the place of the second: Lance and Williams' formula for Ward."""
    one, two = sizes[gone], sizes[stays]
    others = np.flatnonzero(sizes)
    others = others[(others != gone) & (others != stays)]
    size, all_of_them = sizes[others], sizes[others] + one + two
    squares = (
        (size + one) * distances[others, gone] ** 2 + (size + two) * distances[others, stays] ** 2 - size * height**2
    ) / all_of_them
    distances[stays, others] = distances[others, stays] = np.sqrt(np.maximum(squares, 0))
    distances[gone, :] = distances[:, gone] = np.inf
    sizes[stays], sizes[gone] = one + two, 0


def _named(merged: list[tuple[int, int, float]], n: int) -> NDArray[np.int64]:
    """Places → the things that stand there at the time of each merge, the lower number first."""
    parent = list(range(2 * n - 1))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    pairs = np.empty((n - 1, 2), np.int64)
    for step, (first, second, _) in enumerate(merged):
        low, high = sorted((root(first), root(second)))
        pairs[step] = low, high
        parent[low] = parent[high] = n + step
    return pairs


def _cut(heights: Distances, n: int, most: int) -> int:
    """How many merges, from the lowest, leave at most `most` clusters; merges of one height go together."""
    needed = max(n - most, 0)
    if not needed:
        return 0
    return int(np.searchsorted(heights, heights[needed - 1], side="right"))


def _labels(pairs: NDArray[np.int64], merges: int) -> NDArray[np.int64]:
    """Clusters are counted as the tree is walked: what was merged first, then single things, the left before the right.

    Only the first `merges` merges are within a cluster.
    """
    n = len(pairs) + 1
    labels = np.zeros(n, np.int64)
    if n == 1:
        return labels
    count = 0
    stack: list[tuple[int, bool]] = [(2 * n - 2, False)]
    while stack:
        node, seen = stack.pop()
        left, right = (int(part) for part in pairs[node - n])
        if node - n < merges:  # a whole cluster
            _fill(labels, pairs, node, count)
            count += 1
            continue
        if not seen:
            stack.append((node, True))
            stack += [(part, False) for part in (right, left) if part >= n]
            continue
        for part in (left, right):
            if part < n:
                labels[part] = count
                count += 1
    return labels


def _fill(labels: NDArray[np.int64], pairs: NDArray[np.int64], node: int, label: int) -> None:
    n, stack = len(labels), [node]
    while stack:
        part = stack.pop()
        if part < n:
            labels[part] = label
        else:
            stack += [int(one) for one in pairs[part - n]]
