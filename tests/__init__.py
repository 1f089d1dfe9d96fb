"""Tests; `made` makes what they and the benchmarks run on."""
