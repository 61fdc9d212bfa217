"""The k nearest rows: one contract, several engines.

The contract, which every engine keeps, stands in `contract`: Euclidean distance, ascending; ties go to the lower index;
within one set a row is never its own neighbour, by index, not by distance; -1 and inf where there is no neighbour.

========== ======= ============================================================================== ==================
engine     finds   what it is                                                                     needs
========== ======= ============================================================================== ==================
exact      all     torch products, in int8 where that pays, checked in float64; CPU and CUDA      nothing more
native     all     int8 products and their comparison in compiled code, checked in float64; CPU   a C++ compiler, or
                                                                                                  a wheel with it
faiss      all     faiss flat search, or its heaps over products made once for both rows,         extra faiss-cpu/-gpu
                   checked in float64; CPU, or GPU if faiss has it
pivots     most    joins around pivots, for large sets; CPU and CUDA                              nothing more
faiss-ivf  most    faiss inverted file (IVFFlat), automatic size; CPU                             extra faiss-cpu/-gpu
faiss-hnsw most    faiss graph (HNSWFlat); CPU; with several threads not repeatable to the last   extra faiss-cpu/-gpu
                   neighbour
auto       all     `exact`, or on the CPU `native` or `faiss` where that works and is estimated   nothing more
                   to be cheaper
========== ======= ============================================================================== ==================

Engines that find most are approximate: they report real neighbours at their real distances, in the contract's order,
but may miss some, and then report farther ones, or -1 where they met none. How many are missed is measured by
`knn_graph(..., recall_sample=1000)`. None of them is ever chosen by "auto".

`search` holds the functions that are called from outside: `knn_graph` for users; for other rooms `find_neighbors`
(within one set or of one in another), `find_across` (of two sets, of each in the other), `find_both_ends` (also the
farthest) and `find_entered` (also whose nearest a new row would enter). `ties` finishes what products leave open, of
parts too. `engines` holds the table of engines. A further engine is a function like `_exact.search`, and one line in
that table.
"""

from pose2id.neighbors.contract import Neighbors
from pose2id.neighbors.engines import ENGINES, Choice, Engine, check_engine, choose_engine, describe_engines
from pose2id.neighbors.search import (
    Entered,
    find_across,
    find_both_ends,
    find_entered,
    find_neighbors,
    knn_graph,
    take_exclude,
)

__all__ = [
    "ENGINES",
    "Choice",
    "Engine",
    "Entered",
    "Neighbors",
    "check_engine",
    "choose_engine",
    "describe_engines",
    "find_across",
    "find_both_ends",
    "find_entered",
    "find_neighbors",
    "knn_graph",
    "take_exclude",
]
