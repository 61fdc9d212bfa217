"""The int8 filter of the engine `exact`: products of int8 codes rule pairs out before anything is measured.

Nothing is decided by codes: they prove which pairs *cannot* be among the k nearest. What hands over to what:

::

      Search (what is asked)
         |
      filter.search ----------- too few rows, too large a k, no structure, slow products ----------+
         |                                                                                           |
         |  wide rows within one set: projection codes; else, where int8 products are fast: rotation codes
         v                                                                                           |
      machine                largest exact code, speed of int8 products, memory or a temporary file  |
         |                                                                                           |
      products.Products      int8 products, or float32 ones where those are faster, of equal value   |
         |                                                                                           |
      encoder.Encoder        rows -> int8 codes q, their h and their errors E                   (1)  |
         |                                                                                           |
      layout.Codes           codes sorted so that near rows share a tile; padded to whole groups     |
         |                                                                                           |
      side.Side              what is known of each row: k upper bounds, hence its limit on c    (3)  |
         |                                                                                           |
      sweep.Sweep            every pair of tiles once: int8 product -> tile of c                (2)  |
         |                                                                                           |
         +-- side.View       the tile as its rows see it, and as its columns do: maxima of groups    |
         |      |                                                                                    |
         |      v                                                                                    |
         |   pairs.Pairs     pairs that pass the limit: float products give each an interval         |
         |      |            (`resolve`), which tightens the limits and drops most pairs             |
         |      v                                                                                    |
         |   Pairs.nearest   what is left is measured as float64 differences: the answer             |
         |                                                                                           |
         +-- farthest.Farthest   the same with minima, for the farthest row of each (re-ranking)     |
         |                                                                                           |
         v                                                                                           v
      filter.Found: answers, and the rows that collected too many pairs ------------> float path (`_exact`)

The formulas, each derived in the module that owns it:

(1) ``step |q_i - q_j| - E_i - E_j <= d(i, j)``: what codes prove about a distance; `encoder`.
(2) ``-2 c <= |q_i - q_j|² <= 2 - 2 c`` with ``c = q_i . q_j - h_i - h_j``: what an integer product proves; `side`.
(3) ``c >= -((t + E_i + E_j) / step)² / 2``: the limit that a pair must pass to matter within a distance t; `side`.
"""
