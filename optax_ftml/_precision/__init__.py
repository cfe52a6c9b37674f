"""Low precision: rounding at random, and full-precision copies."""
