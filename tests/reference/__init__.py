"""Naive float64 versions of the method, one short function per formula.

They are written from the paper and the public contract, never from the package, and they favour being
obviously right over being fast: plain loops, dense matrices, Python sorting. They take float64 numpy arrays
that already hold the values of the caller's dtype; ``single`` says whether distances are rounded to float32
before they are compared, as the contract asks for float16, bfloat16 and float32 input.
"""
