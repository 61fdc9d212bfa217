"""The search and the method on a Dask cluster: Dask arrays in, lazy Dask arrays out, the numbers of one machine.

- `graphs`: `knn_graph` and `centralize`.
- `sources`: Dask arrays, checked and cut into blocks; the one door to Dask.
- `blocks`: what tasks do.
- `pivots`: what tasks of the engine `pivots` do.
"""

from pose2id.distributed.graphs import centralize, knn_graph

__all__ = ["centralize", "knn_graph"]
